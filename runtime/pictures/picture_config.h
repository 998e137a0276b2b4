// What the config.json of a picture model says about its vocabulary and its pictures. The
// released CogView's shape is the default (Ding et al. 2021, arXiv:2105.13290).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/model_spec.h"

namespace qianyi {

inline constexpr int64_t kMaxGrid = 64;

struct PictureConfig {
  // One vocabulary: image codes, then text pieces, then command words, then padding.
  int32_t image_tokens = 8192;
  int32_t text_tokens = 50000;
  int32_t vocab_size = 58240;
  std::map<std::string, int32_t, std::less<>> commands;  // by word: "[ROI1]"

  int32_t grid = 32;                                        // codes on a side of a picture
  std::string size_word = "[BASE]";                         // before [BOI1]
  std::vector<std::pair<std::string, std::string>> styles;  // name, suffix of the caption
  int32_t top_k = 200;                                      // of painting
  float temperature = 1.0f;
  int32_t caption_tokens = 20;
  std::vector<int32_t> caption_end_ids;
  bool paints = true, captions = true, magnifies = false;
  int64_t positions = 1089;

  // InvalidArgument names the field, its value and what is allowed.
  static absl::StatusOr<PictureConfig> Read(const nlohmann::json& config);

  int64_t codes() const { return int64_t{grid} * grid; }
  // The id of one of the 27 command words; Read made sure that there is one.
  int32_t Command(std::string_view word) const { return commands.find(word)->second; }
  // The suffix of a style; InvalidArgument, with those there are, when there is none of that
  // name. An empty name has none.
  absl::StatusOr<std::string> StyleSuffix(std::string_view name) const;
};

// That of a model; none when it is of another family.
absl::StatusOr<std::optional<PictureConfig>> PictureConfigOf(const ModelSpec& spec);

}  // namespace qianyi
