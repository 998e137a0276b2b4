// What models have in common that continue a text token by token, from GLM-4's line on and before.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/config.h"

namespace qianyi {

class CausalModel : public Model {
 public:
  CausalModel(ModelSpec spec, std::vector<int32_t> end_tokens)
      : Model(std::move(spec)), end_tokens_(std::move(end_tokens)) {}

  // Positions 0, 1, 2, …; one blank, behind the prompt.
  absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const override;
  // Behind [gMASK] and sop, unless the text says so itself.
  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                              std::span<const PromptPart> text) const override;
  const std::vector<int32_t>& end_tokens() const override { return end_tokens_; }

 private:
  const std::vector<int32_t> end_tokens_;
};

// Rotary positions as transformers writes them: beside the other fields, or in "rope_parameters".
struct RopeConfig {
  double base = 0;
  int64_t dims = 0;  // of a head that are rotated
};
RopeConfig ReadRope(const nlohmann::json& json, int64_t head_dim, double default_part,
                    ConfigReader& reader);

// Of one row of positions: 1 / base^(2i / dims).
std::vector<float> RopeFrequencies(double base, int64_t dims);

}  // namespace qianyi
