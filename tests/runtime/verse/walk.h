// Writes verse as a constraint lets it, token by token, in bad ways too.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "runtime/constraint.h"
#include "runtime/verse/verse_tokens.h"

namespace qianyi::testing {

// Which of the tokens that are left is taken.
enum class Taste { kUniform, kLowest, kHighest, kRarest, kLongest };
inline constexpr Taste kTastes[] = {Taste::kUniform, Taste::kLowest, Taste::kHighest,
                                    Taste::kRarest, Taste::kLongest};

class Walk {
 public:
  Walk(const VerseTokens& tokens, std::vector<int32_t> ends, uint32_t seed)
      : tokens_(tokens), ends_(std::move(ends)), random_(seed), logits_(tokens.vocab_size()) {}

  // The ids up to the end token. Fails the test when nothing is left, or an end token beside
  // other tokens.
  std::vector<int32_t> Run(Constraint& constraint, Taste taste) {
    std::vector<int32_t> ids;
    while (ids.size() < 1000) {
      const std::vector<int32_t>& left = Left(constraint);
      if (left.empty()) {
        ADD_FAILURE() << "stuck after " << ids.size() << " tokens";
        return ids;
      }
      const auto is_end = [this](int32_t id) {
        return std::find(ends_.begin(), ends_.end(), id) != ends_.end();
      };
      if (std::any_of(left.begin(), left.end(), is_end)) {
        EXPECT_EQ(left, ends_);
        return ids;
      }
      ids.push_back(Choose(left, taste));
      constraint.Accept(ids.back());
    }
    ADD_FAILURE() << "no end";
    return ids;
  }

  const std::vector<int32_t>& Left(Constraint& constraint) {
    std::fill(logits_.begin(), logits_.end(), 0.0f);
    constraint.Mask(logits_);
    left_.clear();
    for (size_t id = 0; id < logits_.size(); ++id) {
      if (logits_[id] == 0.0f) left_.push_back(static_cast<int32_t>(id));
    }
    return left_;
  }

 private:
  int32_t Choose(const std::vector<int32_t>& left, Taste taste) {
    const int32_t any = left[random_() % left.size()];
    if (taste == Taste::kLowest) return left.front();
    if (taste == Taste::kHighest) return left.back();
    if (taste == Taste::kUniform) return any;
    // Others are greedy three times in four, or every walk would be the same.
    if (random_() % 4 == 0) return any;
    if (taste == Taste::kLongest) {
      return *std::max_element(left.begin(), left.end(), [this](int32_t a, int32_t b) {
        return tokens_.Text(a).size() < tokens_.Text(b).size();
      });
    }
    std::map<VerseTokens::Class, int> counts;
    for (const int32_t id : left) ++counts[tokens_.token_classes()[id]];
    const auto rarest =
        std::min_element(counts.begin(), counts.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    std::vector<int32_t> of_it;
    for (const int32_t id : left) {
      if (tokens_.token_classes()[id] == rarest->first) of_it.push_back(id);
    }
    return of_it[random_() % of_it.size()];
  }

  const VerseTokens& tokens_;
  const std::vector<int32_t> ends_;
  std::mt19937 random_;
  std::vector<float> logits_;
  std::vector<int32_t> left_;
};

}  // namespace qianyi::testing
