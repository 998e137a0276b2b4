// The per-call queue of tokens from the engine to a front end.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "runtime/sampler.h"

namespace qianyi {

enum class FinishReason : uint8_t { kNone, kStop, kLength };

struct TokenEvent {
  int32_t blank = 0;                          // which blank of the prompt
  FinishReason finish = FinishReason::kNone;  // set: the blank ended, and there is no token
  SampledToken token;
};

// Rung by engines, waited for by one thread that serves many sinks.
class Bell {
 public:
  void Ring();
  uint32_t rings() const { return rings_.load(std::memory_order_acquire); }
  // Returns once it has rung since `seen` was read. Sleeps at once: std::atomic would spin first,
  // as if the bell were about to ring, and it rings twice a step.
  void Wait(uint32_t seen);

 private:
  std::atomic<uint32_t> rings_{0};
  std::atomic<bool> awaited_{false};
};

// One writer (the engine), one reader. All memory is taken in the constructor: the writer
// neither allocates nor locks.
class Sink {
 public:
  // `events`: at most so many will come (Engine::MaxEvents); `logprobs` as in SamplingParams.
  // `bell`, which outlives this, is rung half way through what a step writes to all sinks, after
  // it, and at the end: for readers that Poll.
  Sink(int64_t events, int32_t logprobs, Bell* bell = nullptr) : events_(events), bell_(bell) {
    for (TokenEvent& event : events_) event.token.top.reserve(logprobs);
  }

  // For the mean of a prompt's final hidden states, of so many dimensions: no event comes.
  struct Mean {
    int64_t dimensions = 0;
  };
  explicit Sink(Mean mean, Bell* bell = nullptr)
      : bell_(bell), mean_(static_cast<size_t>(mean.dimensions)) {}
  int64_t dimensions() const { return static_cast<int64_t>(mean_.size()); }

  // Engine: before Close.
  void SetMean(std::span<const double> sum, int64_t count) {
    for (size_t i = 0; i < mean_.size(); ++i) {
      mean_[i] = static_cast<float>(sum[i] / static_cast<double>(count));
    }
  }
  // Engine: before the first event, how long the call waited for a place.
  void SetQueueSeconds(double seconds) { queue_seconds_ = seconds; }
  // Likewise: tokens of its prompt that need not be computed.
  void SetCachedTokens(int64_t tokens) { cached_tokens_ = tokens; }
  // Engine: fills Next(), then publishes it, and rings bell() in time; Close is the last call.
  TokenEvent& Next() { return events_[written_]; }
  void Publish() {
    ++written_;
    Advance();
  }
  // Rung for all that was published so far, and by Close itself.
  Bell* bell() const { return bell_; }
  void Close(absl::Status status) {
    status_ = std::move(status);
    closed_ = true;
    Advance();
    if (bell_ != nullptr) bell_->Ring();
  }

  // Front end: the next event, waiting for it; null at the end, when status() is final.
  const TokenEvent* Wait() {
    for (;;) {
      const uint64_t seen = progress_.load(std::memory_order_acquire);
      if (read_ < static_cast<int64_t>(seen >> 1)) return &events_[read_++];
      if ((seen & 1) != 0) return nullptr;
      progress_.wait(seen, std::memory_order_acquire);
    }
  }
  // The next event, or null when there is none yet or none any more: then *closed tells which.
  const TokenEvent* Poll(bool* closed) {
    const uint64_t seen = progress_.load(std::memory_order_acquire);
    const bool more = read_ < static_cast<int64_t>(seen >> 1);
    *closed = !more && (seen & 1) != 0;
    return more ? &events_[read_++] : nullptr;
  }
  const absl::Status& status() const { return status_; }
  // Once there was an event, or the end; negative when it never had a place.
  double queue_seconds() const { return queue_seconds_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  // Once it ended well.
  std::span<const float> mean() const { return mean_; }

 private:
  void Advance() {
    progress_.store(static_cast<uint64_t>(written_) << 1 | (closed_ ? 1 : 0),
                    std::memory_order_release);
    progress_.notify_one();
  }

  std::vector<TokenEvent> events_;
  Bell* const bell_;
  int64_t written_ = 0;  // writer only
  bool closed_ = false;  // writer only
  int64_t read_ = 0;     // reader only
  absl::Status status_;
  double queue_seconds_ = -1;
  int64_t cached_tokens_ = 0;
  std::vector<float> mean_;
  std::atomic<uint64_t> progress_{0};  // events published * 2 + closed
};

}  // namespace qianyi
