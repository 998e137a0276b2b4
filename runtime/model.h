// A model: its stages, run one after the other over a step.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/model_spec.h"
#include "runtime/pass.h"
#include "runtime/sequence.h"
#include "runtime/step.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// A stretch of a prompt. Command words ("[MASK]", "<|user|>") act only where `commands` is set:
// what a user typed into a message never does.
struct PromptPart {
  std::string_view text;
  bool commands = false;
};

// Immutable after creation. Stage i needs the weights of unit i of the spec.
class Model {
 public:
  explicit Model(ModelSpec spec) : spec_(std::move(spec)) {}
  virtual ~Model() = default;

  const ModelSpec& spec() const { return spec_; }
  int stages() const { return static_cast<int>(spec_.units.size()); }

  // Enqueues one stage. The hidden states of all tokens are in pass.hidden() between stages;
  // the last stage leaves pass.logits() for step.logit_tokens. DataLoss when weights cannot
  // be read.
  virtual absl::Status Run(int stage, const Step& step, Pass& pass) const = 0;

  // Enqueues the norm between the last layer and the head, over `rows` and in place.
  virtual void FinalNorm(Tensor rows, Pass& pass) const = 0;

  // Lays out prompt ids: positions, what is bidirectional, which blanks to fill.
  // InvalidArgument for ids outside the vocabulary and prompts that are too long.
  virtual absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const = 0;
  // Prompt ids of a text, with the control tokens that the family puts around it.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                                      std::span<const PromptPart> text) const = 0;
  // Generation of a blank stops before any of these.
  virtual const std::vector<int32_t>& end_tokens() const = 0;

 protected:
  static absl::StatusOr<std::vector<int32_t>> EncodeParts(const Tokenizer& tokenizer,
                                                          std::span<const PromptPart> text);
  // InvalidArgument unless every id is in the vocabulary and there are 1..max_positions.
  absl::Status CheckIds(const std::vector<int32_t>& ids) const;

 private:
  const ModelSpec spec_;
};

}  // namespace qianyi
