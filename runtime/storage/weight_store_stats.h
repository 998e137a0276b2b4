// What a WeightStore has read, holds and was waited for.
#pragma once

#include <cstdint>

#include "runtime/storage/expert_cache.h"

namespace qianyi {

struct WeightStoreStats {
  uint64_t read_bytes = 0;      // from disk, all told
  uint64_t gathered_bytes = 0;  // of which for embedding rows
  uint64_t resident_bytes = 0;  // read so far of the resident set
  uint64_t lent_bytes = 0;      // of what else passes, in memory that is lent just now
  double stall_seconds = 0;     // the engine waited for a block
  ExpertStats experts;          // their bytes and waiting are part of the above
};

}  // namespace qianyi
