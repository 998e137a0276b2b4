// How long a page that a prefix may need again is worth its memory, where weights could be in it.
#pragma once

#include <cstdint>
#include <limits>

namespace qianyi {

// The memory of a page costs each step the time to read as many bytes of weights; without the page
// its tokens would have to be computed again. Nobody knows whether they will be asked for, so it is
// kept until it has cost as much as that: never more than twice what was best (the ski rental of
// Karlin et al., 1988). From running means over steps; pure.
class PageWorth {
 public:
  static constexpr int64_t kAlways = std::numeric_limits<int64_t>::max();

  explicit PageWorth(uint64_t page_bytes) : page_bytes_(page_bytes) {}

  // A step of `seconds`, with so many tokens of prompts; `read_bytes` from disk since the first.
  void Count(int64_t prompt_tokens, double seconds, uint64_t read_bytes);
  // Steps without use after which a page is to go; kAlways as long as nothing is read or nothing
  // is known.
  int64_t steps() const;

 private:
  const uint64_t page_bytes_;
  uint64_t read_bytes_ = 0;
  double plain_seconds_ = 0;  // a step without prompts
  double plain_bytes_ = 0;    // read in one
  double token_seconds_ = 0;  // that a token of a prompt adds
};

}  // namespace qianyi
