#include "runtime/pictures/picture_query.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

class QueryConstraint : public Constraint {
 public:
  explicit QueryConstraint(std::vector<TokenRange> ranges) : ranges_(std::move(ranges)) {}

  void Mask(std::span<float> logits) override {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const TokenRange range = ranges_[std::min(place_, ranges_.size() - 1)];
    std::fill(logits.begin(), logits.begin() + range.begin, kNever);
    std::fill(logits.begin() + range.end, logits.end(), kNever);
  }
  void Accept(int32_t) override { ++place_; }

 private:
  const std::vector<TokenRange> ranges_;
  size_t place_ = 0;
};

}  // namespace

std::vector<int32_t> QueryPositions(std::span<const int32_t> query, int32_t roi2) {
  std::vector<int32_t> positions(query.size());
  int32_t restart = 0;
  for (size_t i = 0; i < query.size(); ++i) {
    positions[i] = static_cast<int32_t>(i) - restart;
    if (query[i] == roi2) restart = static_cast<int32_t>(i);
  }
  return positions;
}

std::vector<TokenRange> QueryRanges(std::span<const int32_t> query, const PictureConfig& config) {
  const TokenRange image = {0, config.image_tokens};
  const TokenRange text = {config.image_tokens, config.image_tokens + config.text_tokens};
  TokenRange now = {config.image_tokens, config.vocab_size};
  std::vector<TokenRange> ranges;
  for (const int32_t id : query) {
    if (id < 0) ranges.push_back(now);
    if (id == config.Command("[BOI1]") || id == config.Command("[BOI2]")) now = image;
    if (id == config.Command("[EOI1]") || id == config.Command("[EOI2]")) now = text;
  }
  return ranges;
}

absl::StatusOr<Prompt> LayOutQuery(std::span<const int32_t> query, const PictureConfig& config) {
  const auto first = std::find_if(query.begin(), query.end(), [](int32_t id) { return id < 0; });
  const size_t given = static_cast<size_t>(first - query.begin());
  if (given == 0 || given == query.size()) {
    return absl::InvalidArgumentError(
        "a picture's query needs a given token first, and a place to be filled");
  }
  const std::vector<int32_t> positions = QueryPositions(query, config.Command("[ROI2]"));
  for (size_t i = 0; i < query.size(); ++i) {
    if (query[i] >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("token %d is not one of the model's vocabulary", query[i]));
    }
    if (positions[i] >= config.positions) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the text and the picture need position %d; the model has positions up "
                          "to %d; shorten the text",
                          positions[i], config.positions - 1));
    }
  }
  Prompt prompt;
  prompt.tokens.assign(query.begin(), first);
  prompt.positions[0].assign(positions.begin(), positions.begin() + given);
  prompt.positions[1].assign(given, 0);
  prompt.continuation.assign(first, query.end());
  prompt.continuation_positions.assign(positions.begin() + given, positions.end());
  prompt.blanks.push_back({.position = {positions[given], 0}});
  return prompt;
}

std::unique_ptr<Constraint> MakeQueryConstraint(std::vector<TokenRange> ranges) {
  return std::make_unique<QueryConstraint>(std::move(ranges));
}

}  // namespace qianyi
