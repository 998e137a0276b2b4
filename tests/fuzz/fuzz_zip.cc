// Input: a zip archive, whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/checkpoints/zip.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto entries = qianyi::ReadZipContents(qianyi::MemoryBytes(text));
  if (!entries.ok()) return 0;
  for (const qianyi::ZipEntry& entry : *entries) {
    if (entry.begin > size || entry.bytes > size - entry.begin) std::abort();
  }
  return 0;
}
