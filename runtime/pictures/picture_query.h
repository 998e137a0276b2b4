// CogView's requests: ids that are given and places that are to be filled, in one list.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/constraint.h"
#include "runtime/pictures/picture_config.h"
#include "runtime/sequence.h"

namespace qianyi {

inline constexpr int32_t kGeneratedPlace = -1;

// Positions run 0, 1, 2, … up to [ROI2] at index r, which keeps r; index i behind it stands at i -
// r.
std::vector<int32_t> QueryPositions(std::span<const int32_t> query, int32_t roi2);

// The ids that may be drawn at one place: [begin, end).
struct TokenRange {
  int32_t begin = 0;
  int32_t end = 0;

  bool operator==(const TokenRange&) const = default;
};
// One per generated place, by the last given switch before it: image codes after [BOI1] and [BOI2],
// text after [EOI1] and [EOI2], everything but codes before any of them.
std::vector<TokenRange> QueryRanges(std::span<const int32_t> query, const PictureConfig& config);

// The prompt of a query with at least one generated place, none of them first: what is given before
// the first one, then the continuation. InvalidArgument when it is longer than the model's
// positions or an id is not in the vocabulary.
absl::StatusOr<Prompt> LayOutQuery(std::span<const int32_t> query, const PictureConfig& config);

// Keeps each generated place in its range.
std::unique_ptr<Constraint> MakeQueryConstraint(std::vector<TokenRange> ranges);

}  // namespace qianyi
