// Filling the blanks of one prompt, token by token: which token is fed next and where it
// stands. Shared by the engine and by `verify`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

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
    if (prompt_.refill) filled_.reserve(max_tokens);
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
  // What is cached may be computed anew, in the same pages.
  bool refills() const { return prompt_.refill; }
  bool done() const { return blank_ == static_cast<int32_t>(prompt_.blanks.size()); }

  // The token chosen from the last logits belongs to the blank; true when the blank is now full.
  // The last token of a full blank is not fed: later blanks never see it, as in the original.
  bool Accept(int32_t token) {
    if (prompt_.refill) filled_.push_back(token);
    if (++generated_ == max_tokens_) return true;
    if (prompt_.continuation.empty()) {
      Feed(token);
      return false;
    }
    FeedNext(token);
    while (fed_ < size() && prompt_.continuation[fed_] >= 0) FeedNext(prompt_.continuation[fed_]);
    return fed_ == size();
  }
  // Puts guesses behind the last token and earlier guesses, as many as the blank has room to feed:
  // how many.
  int32_t Guess(std::span<const int32_t> tokens) {
    if (!prompt_.continuation.empty()) return 0;
    const int32_t room = max_tokens_ - generated_ - 1 - sequence.guessed;
    const auto fed = tokens.first(std::min<size_t>(tokens.size(), std::max(room, 0)));
    for (const int32_t token : fed) Feed(token);
    sequence.guessed += static_cast<int32_t>(fed.size());
    return static_cast<int32_t>(fed.size());
  }
  // `branch` becomes another way to go on: the last known token, `from` of the guesses, then as
  // many of `tokens` as the blank has room to feed: how many. What is before them is its prefix.
  int32_t Branch(int32_t from, std::span<const int32_t> tokens, Sequence* branch) const;
  // Back to what is known. The cache keeps what was computed of guesses until others are.
  void TakeBackGuesses() {
    const size_t known = sequence.tokens.size() - static_cast<size_t>(sequence.guessed);
    sequence.tokens.resize(known);
    for (int row : {0, 1}) sequence.positions[row].resize(known);
    sequence.cached = std::min(sequence.cached, static_cast<int32_t>(known));
    fed_ -= sequence.guessed;
    sequence.guessed = 0;
  }
  // Goes on to the next blank, if there is one. An end token is neither kept nor fed.
  void EndBlank() {
    if (prompt_.refill) Refill();
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
  // The context with the blank in its mask's place, nothing of it cached. Allocates nothing: there
  // was room for the blank behind the context.
  void Refill();
  void Feed(int32_t token) { Feed(token, fed_++, &sequence); }
  // As the blank's token number `fed`.
  void Feed(int32_t token, int32_t fed, Sequence* to) const {
    const Blank& at = prompt_.blanks[blank_];
    to->Append(token, at.position[0] + shift_ + fed * at.stride[0],
               at.position[1] + fed * at.stride[1]);
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
  // Of a prompt that is refilled.
  std::vector<int32_t> filled_;  // tokens of this blank, the last one too
  int32_t shift_ = 0;            // by how much the context has grown
};

}  // namespace qianyi
