#include <cmath>
#include <vector>

#include "tests/kernels/expect.h"
#include "tests/kernels/expert_cases.h"

namespace qianyi::testing {
namespace {

TEST(RouteTest, ChoosesAsWrittenAndIsTheSameEverywhere) {
  for (const RouteCase& shape : kRouteCases) {
    SCOPED_TRACE(&shape - kRouteCases);
    const RouteProblem problem(shape);
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
  for (const RouteCase& shape : kRouteCases) {
    if (shape.capacity > 0) continue;
    SCOPED_TRACE(&shape - kRouteCases);
    const RouteProblem problem(shape);
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

TEST(CombineTest, AddsInOrderAndIsTheSameEverywhere) {
  for (const CombineCase& shape : kCombineCases) {
    SCOPED_TRACE(shape.cols);
    const CombineProblem problem(shape);
    const auto run = [&](const Backend& backend, int threads) {
      ScopedStream stream(backend, threads);
      const Matrix out = problem.Out();
      backend.combine(problem.Args(out.view()), stream);
      EXPECT_TRUE(out.Intact());
      return out.Dense();
    };
    const std::vector<float> before = problem.Out().Dense();
    std::vector<double> expected(before.begin(), before.end());
    for (int64_t i = 0; i < shape.tokens * shape.count; ++i) {
      if (problem.ids[i] < 0) continue;
      for (int64_t c = 0; c < shape.cols; ++c) {
        expected[i / shape.count * shape.cols + c] +=
            double{problem.weights[i]} * problem.rows.view().f32(problem.ids[i])[c];
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
