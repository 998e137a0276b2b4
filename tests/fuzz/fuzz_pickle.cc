// Input: a pickle, whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/checkpoints/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using Kind = qianyi::PickleValue::Kind;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto pickle = qianyi::ParsePickle(text);
  if (!pickle.ok()) return 0;
  // What is accepted must hold together: readers follow the indices.
  bool good = pickle->bytes <= size && pickle->root < pickle->values.size();
  for (const qianyi::PickleValue& value : pickle->values) {
    for (const uint32_t item : value.items) good = good && item < pickle->values.size();
    if (value.kind == Kind::kDict) good = good && value.items.size() % 2 == 0;
    if (value.kind == Kind::kTensor) {
      good = good && value.items.size() == 4 && pickle->at(value.items[0]).kind == Kind::kStorage &&
             pickle->at(value.items[1]).kind == Kind::kInt &&
             pickle->at(value.items[2]).kind == Kind::kTuple &&
             pickle->at(value.items[3]).kind == Kind::kTuple;
    }
  }
  if (!good) std::abort();
  return 0;
}
