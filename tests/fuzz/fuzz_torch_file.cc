// Input: what torch.save wrote, in either container.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/checkpoints/torch_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto tensors = qianyi::ReadTorchContents(qianyi::MemoryBytes(text));
  if (!tensors.ok()) return 0;
  for (const qianyi::SourceTensor& tensor : *tensors) {
    if (!qianyi::CheckPlace(tensor, size).ok()) std::abort();
  }
  return 0;
}
