// Speculative decoding with a small model (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv
// 2302.01318): while the large one's weights travel, the small one runs some tokens ahead of each
// sequence, and one step of the large one looks at all of them. Tokens are those of a run without:
// the sampler chooses each from the large model's logits, and the draft was right where it chose
// the same. So that sampled requests agree often too, drafts are drawn with the same random
// numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/generation.h"
#include "runtime/loaded_model.h"
#include "runtime/running_mean.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// How far to run ahead, by what a drafted token costs and how often it is right. One thread.
class DraftControl {
 public:
  explicit DraftControl(bool always = false);

  // Tokens for each sequence in the next step, `most` at most; 0 where that is faster.
  int32_t Allow(int32_t most);
  // A step of generated tokens only, in which each sequence ran `ahead` tokens ahead (0: none did):
  // drafts that were right, sequences in which one was wrong, seconds.
  void Count(int32_t ahead, int64_t right, int64_t wrong, double draft_seconds,
             double step_seconds);

  // Tokens a second and sequence, as a share of those without drafts.
  double Gain(int32_t ahead) const;

 private:
  const bool always_;
  uint64_t steps_ = 0;  // asked for
  // Of the model's part of a step without drafts, and with; then a token that is drafted, and how
  // many.
  RunningMean plain_seconds_, longer_seconds_, draft_seconds_, ahead_;
  double right_ = 0.0, wrong_ = 0.0;
};

// The engine's thread only, but for what is static.
class Drafter {
 public:
  // The draft model of `folder` for a target. InvalidArgument when it has another vocabulary,
  // lays prompts out in another way, or has too few positions. `tokenizer`: the target's, or null.
  static absl::StatusOr<ModelFile> OpenFile(const std::string& folder, const ModelSpec& target,
                                            const Tokenizer* tokenizer, int64_t context_tokens);
  // How to load it, where the target is loaded by `target`.
  static LoadOptions OptionsFor(LoadOptions target);

  // `loaded` has as many places, of as many tokens, as the target. `always`: also where it is
  // slower.
  explicit Drafter(std::unique_ptr<LoadedModel> loaded, bool always = false);

  int32_t Allow(int32_t most) { return control_.Allow(most); }
  // A sequence of the next Run. It and what is named stay valid until then.
  struct Ask {
    int place = 0;
    Generation* generation = nullptr;
    const SamplingParams* sampling = nullptr;
    std::span<const int32_t> end_tokens;
    uint64_t index = 0;  // of its next random number
    int32_t most = 0;
    bool others = false;  // too: see Others
  };
  // What else may come where a guess was drawn, after so many others of them, and how likely it is
  // that this is what comes.
  struct Other {
    int32_t from = 0;
    int32_t token = 0;
    double probability = 0.0;
  };
  void Add(const Ask& ask) { asks_[static_cast<size_t>(ask.place)] = ask; }
  // Puts guesses behind each sequence that was added. A prompt is read when it is first asked
  // about. DataLoss when weights cannot be read.
  absl::Status Run();
  // Of a sequence of the last Run that asked for them, the likeliest first.
  std::span<const Other> Others(int place) const { return others_[static_cast<size_t>(place)]; }
  // What came of a step, in which `ahead` was asked for.
  void Count(int32_t ahead, int64_t right, int64_t wrong, double step_seconds);
  // The sequence of a place has ended.
  void Forget(int place);

 private:
  bool Follow(const Ask& ask);
  absl::Status CatchUp();
  bool TakeRow(int place, std::span<float> logits);
  void NoteOther(const Ask& ask, uint64_t index, int32_t drawn, std::span<float> logits);

  const std::unique_ptr<LoadedModel> loaded_;
  const ModelUse use_;
  const SchedulerLimits limits_;
  DraftControl control_;
  std::vector<Ask> asks_;                   // by place; most = 0: none
  std::vector<std::vector<Other>> others_;  // by place
  std::vector<double> path_;                // by place: how likely all that was drawn comes
  std::vector<Sequence> mirrors_;           // of the target's sequences, by place
  std::vector<Sequence*> followed_;         // the same, for the scheduler
  std::vector<int> order_, behind_;  // places that run, and that have more than a word to read
  Step step_;
  Sampler sampler_;
  SampledToken sampled_;
  double seconds_ = 0.0;  // of the last Run; 0: it says nothing of what a token takes
};

}  // namespace qianyi
