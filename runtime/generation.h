// Filling the blanks of one prompt, token by token: which token is fed next and where it
// stands. Shared by the engine and by `verify`.
#pragma once

#include <cstdint>
#include <utility>

#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace qianyi {

// One thread. Allocates in its constructor only.
class Generation {
 public:
  // Each blank ends after `max_tokens` tokens at the latest.
  Generation(Prompt prompt, int32_t max_tokens)
      : prompt_(std::move(prompt)), max_tokens_(max_tokens) {
    const int64_t capacity = MaxCached(prompt_, max_tokens);
    sequence.tokens.reserve(capacity);
    sequence.tokens = prompt_.tokens;
    for (int row : {0, 1}) {
      sequence.positions[row].reserve(capacity);
      sequence.positions[row] = prompt_.positions[row];
    }
    sequence.pages.reserve(KvCache::PagesFor(capacity));
    sequence.bidirectional = prompt_.bidirectional;
    BeginBlank();
  }

  // Tokens that can ever be cached: every generated one may be fed, and each start token.
  static int64_t MaxCached(const Prompt& prompt, int32_t max_tokens) {
    if (!prompt.continuation.empty()) {
      return static_cast<int64_t>(prompt.tokens.size() + prompt.continuation.size());
    }
    return static_cast<int64_t>(prompt.tokens.size()) +
           static_cast<int64_t>(prompt.blanks.size()) * (int64_t{max_tokens} + 1);
  }
  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt_.tokens.size()); }
  int64_t max_cached() const { return MaxCached(prompt_, max_tokens_); }

  int32_t blank() const { return blank_; }  // being filled
  bool done() const { return blank_ == static_cast<int32_t>(prompt_.blanks.size()); }

  // The token chosen from the last logits belongs to the blank; true when the blank is now full.
  // The last token of a full blank is not fed: later blanks never see it, as in the original.
  bool Accept(int32_t token) {
    if (++generated_ == max_tokens_) return true;
    if (prompt_.continuation.empty()) {
      Feed(token);
      return false;
    }
    FeedNext(token);
    while (fed_ < size() && prompt_.continuation[fed_] >= 0) FeedNext(prompt_.continuation[fed_]);
    return fed_ == size();
  }
  // Goes on to the next blank, if there is one. An end token is neither kept nor fed.
  void EndBlank() {
    ++blank_;
    if (!done()) BeginBlank();
  }

  Sequence sequence;

 private:
  void BeginBlank() {
    fed_ = 0;
    generated_ = 0;
    const int32_t start = prompt_.blanks[blank_].start_token;
    if (start >= 0) Feed(start);
  }
  void Feed(int32_t token) {
    const Blank& at = prompt_.blanks[blank_];
    sequence.Append(token, at.position[0] + fed_ * at.stride[0],
                    at.position[1] + fed_ * at.stride[1]);
    ++fed_;
  }
  int32_t size() const { return static_cast<int32_t>(prompt_.continuation.size()); }
  void FeedNext(int32_t token) {
    sequence.Append(token, prompt_.continuation_positions[fed_], 0);
    ++fed_;
  }

  const Prompt prompt_;
  const int32_t max_tokens_;
  int32_t blank_ = 0;
  int32_t fed_ = 0;        // tokens of this blank, its start token included
  int32_t generated_ = 0;  // tokens of this blank
};

}  // namespace qianyi
