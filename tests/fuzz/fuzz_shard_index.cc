// Input: model.safetensors.index.json.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/storage/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto shards = qianyi::ParseShardIndex(text, "fuzz");
  if (!shards.ok()) return 0;
  for (const auto& [tensor, shard] : *shards) {
    if (shard.find('/') != shard.npos || shard.find('\0') != shard.npos) std::abort();
  }
  return 0;
}
