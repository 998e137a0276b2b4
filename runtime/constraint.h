// What the tokens of a blank may be: form kept while sampling, not checked afterwards.
#pragma once

#include <cstdint>
#include <span>

namespace qianyi {

// Belongs to one request; used by the engine's thread only. Takes all its memory when it is
// made: Mask and Accept neither allocate nor lock.
class Constraint {
 public:
  virtual ~Constraint() = default;

  // Sets the logits of tokens that may not come next to -infinity; an end token stays exactly
  // when the text may end here. At least one token stays.
  virtual void Mask(std::span<float> logits) = 0;
  // The tokens that come next whatever the logits say, as many as are known; where there is none,
  // one is drawn. Their probabilities under the masked logits are reported, which is how a given
  // text is scored.
  virtual std::span<const int32_t> Forced() const { return {}; }
  // The token that was taken; never an end token.
  virtual void Accept(int32_t token) = 0;
};

}  // namespace qianyi
