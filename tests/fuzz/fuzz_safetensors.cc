// Input: a safetensors file, whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/storage/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto file = qianyi::Safetensors::Parse(text, size, "fuzz");
  if (!file.ok()) return 0;
  // What is accepted must hold together: readers rely on it.
  uint64_t covered = 0;
  for (const qianyi::SafetensorsEntry& entry : file->entries()) {
    const uint64_t bits = qianyi::SafetensorsBits(entry.dtype);
    const bool good = entry.begin <= entry.end && entry.end <= size && entry.elements() >= 0 &&
                      (covered == 0 || entry.begin == covered) &&
                      entry.elements() * bits == (entry.end - entry.begin) * 8 &&
                      file->Find(entry.name) == &entry;
    if (!good) std::abort();
    covered = entry.end;
  }
  return 0;
}
