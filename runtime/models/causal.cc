#include "runtime/models/causal.h"

#include <cmath>
#include <string>
#include <utility>

namespace qianyi {

absl::StatusOr<Prompt> CausalModel::LayOut(std::vector<int32_t> ids) const {
  if (absl::Status status = CheckIds(ids); !status.ok()) return status;
  Prompt prompt;
  const int32_t count = static_cast<int32_t>(ids.size());
  for (int32_t i = 0; i < count; ++i) prompt.positions[0].push_back(i);
  prompt.positions[1].assign(count, 0);
  prompt.tokens = std::move(ids);
  prompt.blanks.push_back({.position = {count, 0}, .stride = {1, 0}});
  return prompt;
}

absl::StatusOr<std::vector<int32_t>> CausalModel::Encode(const Tokenizer& tokenizer,
                                                         std::span<const PromptPart> text) const {
  absl::StatusOr<std::vector<int32_t>> ids = EncodeParts(tokenizer, text);
  if (!ids.ok()) return ids.status();
  const int32_t gmask = tokenizer.CommandId("gMASK"), sop = tokenizer.CommandId("sop");
  const bool begun = !ids->empty() && ids->front() == gmask;
  if (gmask >= 0 && sop >= 0 && !begun) ids->insert(ids->begin(), {gmask, sop});
  return ids;
}

RopeConfig ReadRope(const nlohmann::json& json, int64_t head_dim, double default_part,
                    ConfigReader& reader) {
  const auto nested = json.find("rope_parameters");
  const bool in_object = nested != json.end() && nested->is_object();
  ConfigReader object(in_object ? *nested : json);
  RopeConfig rope;
  rope.base = object.Number("rope_theta", 1, 1e12, 1e4);
  const double part = reader.Number("partial_rotary_factor", 0, 1, default_part);
  rope.dims = static_cast<int64_t>(static_cast<double>(head_dim) *
                                   object.Number("partial_rotary_factor", 0, 1, part));
  object.MustBe("rope_type", "default");
  reader.MustBe("rope_scaling", nullptr);
  if (reader.status().ok() && !object.status().ok()) {
    // Both readers name the file.
    const std::string message(object.status().message());
    reader.Require(false, message.substr(message.find(": ") + 2));
  }
  reader.Require(rope.dims > 0 && rope.dims % 2 == 0,
                 "partial_rotary_factor of a head must be an even number of dimensions");
  return rope;
}

std::vector<float> RopeFrequencies(double base, int64_t dims) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < dims; i += 2) {
    frequencies.push_back(static_cast<float>(1.0 / std::pow(base, 1.0 * i / dims)));
  }
  return frequencies;
}

}  // namespace qianyi
