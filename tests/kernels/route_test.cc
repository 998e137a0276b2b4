#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

struct RouteCase {
  RouterGate gate;
  int64_t tokens, cols, experts, top_k;
  bool bias = false, correction = false, normalize = false;
  int64_t groups = 1, kept_groups = 1;
  int64_t capacity = 0;
  bool uniform = false;
};

constexpr RouteCase kCases[] = {
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

class Problem {
 public:
  explicit Problem(const RouteCase& of)
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
    backend.route({.gate = shape_.gate,
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
                   .scores = scores.data(),
                   .chosen = routed.chosen.data(),
                   .weights = routed.weights.data()},
                  stream);
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

TEST(RouteTest, ChoosesAsWrittenAndIsTheSameEverywhere) {
  for (const RouteCase& shape : kCases) {
    SCOPED_TRACE(&shape - kCases);
    const Problem problem(shape);
    const Routed expected = problem.Expected();
    const Routed reference = problem.Run(*CpuVariants().items[0], 1);
    EXPECT_EQ(reference.chosen, expected.chosen);
    EXPECT_TRUE(Near(reference.weights, {expected.weights.begin(), expected.weights.end()}, 2e-5));
    for (int i = 0; i < CpuVariants().count; ++i) {
      const Backend& backend = *CpuVariants().items[i];
      for (const int threads : {1, 2, 3}) {
        const Routed routed = problem.Run(backend, threads);
        EXPECT_EQ(routed.chosen, reference.chosen) << backend.variant;
        EXPECT_TRUE(SameBits(routed.weights, reference.weights)) << backend.variant;
      }
    }
  }
}

// Without a capacity, which is about the batch by definition.
TEST(RouteTest, ATokenDoesNotDependOnTheOthers) {
  for (const RouteCase& shape : kCases) {
    if (shape.capacity > 0) continue;
    SCOPED_TRACE(&shape - kCases);
    const Problem problem(shape);
    const Routed together = problem.Run(Cpu(), 2);
    Routed apart;
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const Routed alone = problem.RunToken(Cpu(), t);
      apart.chosen.insert(apart.chosen.end(), alone.chosen.begin(), alone.chosen.end());
      apart.weights.insert(apart.weights.end(), alone.weights.begin(), alone.weights.end());
    }
    EXPECT_EQ(apart.chosen, together.chosen);
    EXPECT_TRUE(SameBits(apart.weights, together.weights));
  }
}

TEST(RouteTest, EqualScoresGoToTheLowerAndNoNumberIsNoCrash) {
  const std::vector<float> zero(6 * 8, 0.0f);
  std::vector<float> scores(2 * 6), weights(3);
  std::vector<int32_t> chosen(3);
  for (const float value : {1.0f, std::nanf("")}) {
    std::vector<float> x(8, value);
    ScopedStream stream(Cpu(), 1);
    Cpu().route({.x = F32(x.data(), 1, 8),
                 .weight = zero.data(),
                 .experts = 6,
                 .top_k = 3,
                 .scores = scores.data(),
                 .chosen = chosen.data(),
                 .weights = weights.data()},
                stream);
    EXPECT_EQ(chosen, (std::vector<int32_t>{0, 1, 2}));
  }
}

struct CombineCase {
  int64_t tokens, rows, cols, count;
};
constexpr CombineCase kCombineCases[] = {
    {1, 1, 1, 1}, {1, 8, 4097, 8}, {5, 40, 17, 8}, {33, 7, 100, 3}, {2, 3, 2048, 2},
};

TEST(CombineTest, AddsInOrderAndIsTheSameEverywhere) {
  for (const CombineCase& shape : kCombineCases) {
    SCOPED_TRACE(shape.cols);
    const Matrix rows(shape.rows, shape.cols, 1);
    const std::vector<float> weights = RandomValues(shape.tokens * shape.count, 2);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < shape.tokens * shape.count; ++i) {
      ids.push_back(static_cast<int32_t>(RandomIndex(3, i, shape.rows + 1)) - 1);
    }
    const auto run = [&](const Backend& backend, int threads) {
      ScopedStream stream(backend, threads);
      const Matrix out(shape.tokens, shape.cols, 4);
      backend.combine({.rows = rows.view(),
                       .ids = ids.data(),
                       .weights = weights.data(),
                       .count = shape.count,
                       .out = out.view()},
                      stream);
      EXPECT_TRUE(out.Intact());
      return out.Dense();
    };
    const std::vector<float> before = Matrix(shape.tokens, shape.cols, 4).Dense();
    std::vector<double> expected(before.begin(), before.end());
    for (int64_t i = 0; i < shape.tokens * shape.count; ++i) {
      if (ids[i] < 0) continue;
      for (int64_t c = 0; c < shape.cols; ++c) {
        expected[i / shape.count * shape.cols + c] +=
            double{weights[i]} * rows.view().f32(ids[i])[c];
      }
    }
    const std::vector<float> reference = run(*CpuVariants().items[0], 1);
    EXPECT_TRUE(Near(reference, expected, 1e-5));
    for (int i = 0; i < CpuVariants().count; ++i) {
      for (const int threads : {1, 2, 3}) {
        EXPECT_TRUE(SameBits(run(*CpuVariants().items[i], threads), reference))
            << CpuVariants().items[i]->variant;
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
