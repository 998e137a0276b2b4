// Input: 8 bytes of file size, config.json, a zero byte, and the first bytes of
// model.safetensors.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runtime/storage/model_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t file_bytes = 0;
  if (size < sizeof(file_bytes)) return 0;
  std::memcpy(&file_bytes, data, sizeof(file_bytes));
  const std::string_view rest(reinterpret_cast<const char*>(data) + sizeof(file_bytes),
                              size - sizeof(file_bytes));
  const size_t zero = rest.find('\0');
  if (zero == rest.npos) return 0;
  const auto file = qianyi::Safetensors::Parse(rest.substr(zero + 1), file_bytes, "fuzz");
  if (!file.ok()) return 0;
  const auto model = qianyi::ReadContents("fuzz", rest.substr(0, zero), {*file});
  if (!model.ok()) return 0;
  for (const qianyi::StoredTensor& tensor : model->tensors) {
    int64_t rows = 0;
    for (const qianyi::Block& block : tensor.blocks) {
      const bool good = block.file == 0 && block.offset % qianyi::kPageBytes == 0 &&
                        block.bytes <= file_bytes &&
                        block.offset <= file_bytes - qianyi::RoundUpToPage(block.bytes) &&
                        block.row_begin == rows && block.rows > 0;
      if (!good) std::abort();
      rows += block.rows;
    }
    if (rows != tensor.spec.rows()) std::abort();
  }
  return 0;
}
