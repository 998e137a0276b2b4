// Input: config.json. What is accepted must be a model that can be laid out, or be refused
// with a reason.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/models/registry.h"
#include "runtime/storage/model_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto spec =
      qianyi::DescribeModel(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!spec.ok()) return 0;
  uint64_t bytes = 0;
  for (const qianyi::TensorSpec& tensor : spec->tensors) {
    if (!qianyi::CheckShape(tensor).ok()) return 0;
    bytes += qianyi::BlockBytes(tensor, {qianyi::DType::kI4, 0}, tensor.rows());
  }
  if (bytes > (uint64_t{1} << 36)) return 0;  // laying out more takes too long for a fuzzer
  const auto model = qianyi::ModelFile::Lay(*spec, {qianyi::DType::kI4, 32});
  if (model.ok() && model->tensors.size() != spec->tensors.size()) std::abort();
  return 0;
}
