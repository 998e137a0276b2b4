// How long work on files tells how far it has come.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace qianyi {

struct Progress {
  uint64_t done_bytes = 0;  // of the destination
  uint64_t total_bytes = 0;
  std::string_view tensor;  // being worked on
  std::string_view note;    // something to tell the user once; usually empty
};

// Called from worker threads, one call at a time. May be empty.
using ProgressFn = std::function<void(const Progress&)>;

}  // namespace qianyi
