// Problems of the kernels for mixtures of experts, for tests on every backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/kernels/cases.h"

namespace qianyi::testing {

struct RouteCase {
  RouterGate gate;
  int64_t tokens, cols, experts, top_k;
  bool bias = false, correction = false, normalize = false;
  int64_t groups = 1, kept_groups = 1;
  int64_t capacity = 0;
  bool uniform = false;
};

inline constexpr RouteCase kRouteCases[] = {
    {RouterGate::kSigmoid, 1, 1, 1, 1},
    {RouterGate::kSigmoid, 1, 4096, 128, 8, false, true, true},
    {RouterGate::kSigmoid, 9, 95, 33, 7, true, true, true},
    {RouterGate::kSigmoid, 5, 64, 16, 4, false, true, false, 4, 2},
    {RouterGate::kSigmoid, 40, 130, 64, 6, false, true, true, 8, 3},
    {RouterGate::kNaive, 7, 16, 4, 1, true},
    {RouterGate::kNaive, 24, 33, 17, 2, true},
    {RouterGate::kNaive, 3, 20, 5, 5},
    {RouterGate::kSwitch, 11, 70, 40, 1, true},
    {RouterGate::kNaive, 24, 16, 4, 2, true, false, false, 1, 1, 7},
    {RouterGate::kNaive, 24, 16, 4, 2, true, false, false, 1, 1, 7, true},
    {RouterGate::kSwitch, 24, 16, 4, 1, true, false, false, 1, 1, 3},
};

struct Routed {
  std::vector<int32_t> chosen;
  std::vector<float> weights;
};

class RouteProblem {
 public:
  explicit RouteProblem(const RouteCase& of)
      : shape_(of),
        x_(of.tokens, of.cols, 1),
        weight_(RandomValues(of.experts * of.cols, 2)),
        bias_(RandomValues(of.experts, 3)),
        correction_(RandomValues(of.experts, 4)),
        uniform_(RandomValues(of.tokens, 5)) {
    for (float& w : weight_) w /= std::sqrt(static_cast<float>(of.cols));
    for (float& c : correction_) c *= 0.2f;
    for (float& u : uniform_) u = std::min(1.0f, std::fabs(u));
  }

  Routed Run(const Backend& backend, int threads) const { return Run(backend, threads, x_.view()); }
  Routed RunToken(const Backend& backend, int64_t token) const {
    return Run(backend, 1, x_.view().Rows(token, 1));
  }

  // `routed` has room for top_k of each token, `scores` for two of each expert.
  Route Args(Tensor x, float* scores, Routed* routed) const {
    return {.gate = shape_.gate,
            .x = x,
            .weight = weight_.data(),
            .bias = shape_.bias ? bias_.data() : nullptr,
            .correction = shape_.correction ? correction_.data() : nullptr,
            .experts = shape_.experts,
            .top_k = shape_.top_k,
            .groups = shape_.groups,
            .kept_groups = shape_.kept_groups,
            .normalize = shape_.normalize,
            .scale = shape_.gate == RouterGate::kSigmoid ? 2.5f : 1.0f,
            .capacity = shape_.capacity,
            .uniform = shape_.uniform ? uniform_.data() : nullptr,
            .scores = scores,
            .chosen = routed->chosen.data(),
            .weights = routed->weights.data()};
  }
  Tensor x() const { return x_.view(); }

  // The same in double, without cleverness.
  Routed Expected() const {
    Routed routed;
    std::vector<int64_t> load(shape_.experts, 0);
    for (int64_t t = 0; t < shape_.tokens; ++t) ExpectToken(t, &load, &routed);
    return routed;
  }

 private:
  Routed Run(const Backend& backend, int threads, Tensor x) const {
    ScopedStream stream(backend, threads);
    Routed routed;
    routed.chosen.assign(x.rows * shape_.top_k, -9);
    routed.weights.assign(x.rows * shape_.top_k, -9.0f);
    std::vector<float> scores(x.rows * 2 * shape_.experts);
    backend.route(Args(x, scores.data(), &routed), stream);
    return routed;
  }

  static std::vector<int32_t> Order(const std::vector<double>& values) {
    std::vector<int32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return values[a] > values[b]; });
    return order;
  }

  void ExpectToken(int64_t t, std::vector<int64_t>* load, Routed* routed) const {
    std::vector<double> logits(shape_.experts, 0.0), scores;
    for (int64_t e = 0; e < shape_.experts; ++e) {
      for (int64_t k = 0; k < shape_.cols; ++k) {
        logits[e] += double{weight_[e * shape_.cols + k]} * x_.view().f32(t)[k];
      }
      if (shape_.bias) logits[e] += bias_[e];
    }
    std::vector<double> choosing = logits;
    if (shape_.gate == RouterGate::kSigmoid) {
      for (double& l : logits) l = 1 / (1 + std::exp(-l));
      choosing = logits;
      for (int64_t e = 0; e < shape_.experts; ++e) {
        if (shape_.correction) choosing[e] += correction_[e];
      }
      ClearGroups(&choosing);
    }
    const std::vector<int32_t> order = Order(choosing);
    double sum = shape_.gate == RouterGate::kSigmoid ? 1e-20 : 0;
    for (int64_t j = 0; j < shape_.top_k; ++j) {
      sum += shape_.gate == RouterGate::kNaive ? std::exp(logits[order[j]]) : logits[order[j]];
    }
    if (shape_.gate == RouterGate::kSwitch) {
      sum = 0;
      for (const double l : logits) sum += std::exp(l);
    }
    double second = 0;
    for (int64_t j = 0; j < shape_.top_k; ++j) {
      const double value = logits[order[j]];
      const double weight = shape_.gate != RouterGate::kSigmoid ? std::exp(value) / sum
                            : shape_.normalize                  ? 2.5 * value / sum
                                                                : 2.5 * value;
      const bool full = shape_.capacity > 0 && ++(*load)[order[j]] > shape_.capacity;
      routed->chosen.push_back(full ? -1 : order[j]);
      routed->weights.push_back(static_cast<float>(weight));
      if (j == 1) second = weight;
    }
    if (shape_.uniform && 2 * second < uniform_[t]) {
      routed->chosen[routed->chosen.size() - shape_.top_k + 1] = -1;
    }
  }

  void ClearGroups(std::vector<double>* choosing) const {
    const int64_t size = shape_.experts / shape_.groups;
    if (shape_.groups == 1) return;
    std::vector<double> groups;
    for (int64_t g = 0; g < shape_.groups; ++g) {
      std::vector<double> group(choosing->begin() + g * size, choosing->begin() + (g + 1) * size);
      std::sort(group.rbegin(), group.rend());
      groups.push_back(group[0] + group[1]);
    }
    const std::vector<int32_t> order = Order(groups);
    for (int64_t i = shape_.kept_groups; i < shape_.groups; ++i) {
      std::fill_n(choosing->begin() + order[i] * size, size, 0.0);
    }
  }

  const RouteCase shape_;
  const Matrix x_;
  std::vector<float> weight_, bias_, correction_, uniform_;
};

struct CombineCase {
  int64_t tokens, rows, cols, count;
};
inline constexpr CombineCase kCombineCases[] = {
    {1, 1, 1, 1}, {1, 8, 4097, 8}, {5, 40, 17, 8}, {33, 7, 100, 3}, {2, 3, 2048, 2},
};

// Some of the ids are -1.
struct CombineProblem {
  explicit CombineProblem(const CombineCase& of)
      : shape(of), rows(of.rows, of.cols, 1), weights(RandomValues(of.tokens * of.count, 2)) {
    for (int64_t i = 0; i < of.tokens * of.count; ++i) {
      ids.push_back(static_cast<int32_t>(RandomIndex(3, i, of.rows + 1)) - 1);
    }
  }
  // What is added to.
  Matrix Out() const { return Matrix(shape.tokens, shape.cols, 4); }
  Combine Args(Tensor out) const {
    return {.rows = rows.view(),
            .ids = ids.data(),
            .weights = weights.data(),
            .count = shape.count,
            .out = out};
  }

  const CombineCase shape;
  const Matrix rows;
  const std::vector<float> weights;
  std::vector<int32_t> ids;
};

}  // namespace qianyi::testing
