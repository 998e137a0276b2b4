// One request on its way through the engine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "runtime/engine.h"
#include "runtime/now.h"
#include "runtime/sampler_math.h"

namespace qianyi {

struct Engine::Call {
  Call(GenerateRequest from, std::shared_ptr<Sink> to, std::unique_ptr<Constraint> form)
      : request(std::move(from)),
        sink(std::move(to)),
        constraint(std::move(form)),
        generation(std::move(request.prompt), request.max_tokens) {
    Sequence& sequence = generation.sequence;
    LoadedModel::Attach(request.adapter.get(), &sequence);
    sequence.pages.reserve(KvCache::PagesFor(sequence.prefix_slots + generation.max_cached()));
    sequence.pooled = sink->dimensions() > 0;
    pooled.resize(static_cast<size_t>(sink->dimensions()));
  }

  uint64_t id = 0;
  int64_t queued_nanoseconds = 0;  // when it was submitted
  GenerateRequest request;         // its prompt has moved into `generation`
  std::shared_ptr<Sink> sink;
  std::unique_ptr<Constraint> constraint;  // or null
  Generation generation;
  int64_t cached = 0;          // tokens of its prompt that it found computed
  bool kept = false;           // its prompt's pages are kept for others
  bool feeds_forced = false;   // ahead in this step: what its constraint says must come
  uint64_t sampled = 0;        // index of its next random number
  std::vector<double> pooled;  // sum of its hidden states, where their mean is wanted
  // Candidates of the same prompt until they have places. Then each names this one, until the
  // slots that they share have been computed.
  std::vector<std::unique_ptr<Call>> followers;
  Call* leader = nullptr;

  void CloseAll(const absl::Status& status) {
    sink->Close(status);
    for (auto& follower : followers) follower->sink->Close(status);
  }
  // The token that must come next, or -1.
  int32_t forced() const {
    if (constraint == nullptr) return -1;
    const std::span<const int32_t> tokens = constraint->Forced();
    return tokens.empty() ? -1 : tokens.front();
  }
  // How a device draws the token that comes after `later` others of the same step; temperature -1:
  // it may not.
  TokenDraw Draw(uint64_t later) const {
    const SamplingParams& sampling = request.sampling;
    if (constraint != nullptr || !IsPlain(sampling)) return {.temperature = -1.0f};
    return {.temperature = sampling.temperature,
            .top_p = sampling.top_p,
            .min_p = sampling.min_p,
            .top_k = sampling.top_k,
            .key = DrawKey(sampling.seed, sampled + later)};
  }
  bool shares_prefixes() const { return !generation.refills(); }
  int64_t candidates() const { return 1 + static_cast<int64_t>(followers.size()); }
  int64_t slots() const { return generation.sequence.prefix_slots + generation.max_cached(); }
  // All of the prompt but its last token, whose logits each candidate needs for itself.
  int64_t shared_slots() const {
    return generation.sequence.prefix_slots + generation.prompt_tokens() - 1;
  }
};

}  // namespace qianyi
