// A tokenizer of plain text, which knows no command words; commands.h adds those.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace qianyi {

inline constexpr int32_t kMaxTokenId = (1 << 20) - 1;            // tables are arrays by id
inline constexpr uint64_t kMaxTokenizerFileBytes = 64ull << 20;  // of a vocabulary or a config

// Immutable after loading; every method is thread-safe.
class TextTokenizer {
 public:
  virtual ~TextTokenizer() = default;

  // Appends the ids of `text`, which is well-formed UTF-8. Time is O(n log n) at worst,
  // whatever the text. InvalidArgument when it is too long to be numbered (2 GiB).
  virtual absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const = 0;

  // One past the largest id; ids between may be missing.
  virtual int32_t size() const = 0;
  virtual bool Contains(int32_t id) const = 0;

  // The bytes `id` adds to a text; empty when it adds none or is not contained. `run_start`
  // is true while a run of tokens has written nothing: where sentencepiece drops a leading
  // space. It is updated. The bytes live as long as the tokenizer.
  virtual std::string_view Bytes(int32_t id, bool* run_start) const = 0;
};

}  // namespace qianyi
