// Sizes as files and reads have them: whole pages.
#pragma once

#include <cstdint>

#include "runtime/storage/model_file.h"

namespace qianyi {

constexpr uint64_t Padded(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace qianyi
