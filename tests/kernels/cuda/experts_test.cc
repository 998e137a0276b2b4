// The case tables of routers and their sums, on CUDA devices against the CPU's reference.
#include <vector>

#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/expert_cases.h"

namespace qianyi::testing {
namespace {

const Backend& Reference() { return *CpuVariants().items[0]; }

Routed RunOn(const Backend& device, const RouteProblem& problem, Tensor x, const RouteCase& shape) {
  Routed routed;
  routed.chosen.assign(static_cast<size_t>(x.rows * shape.top_k), -9);
  routed.weights.assign(static_cast<size_t>(x.rows * shape.top_k), -9.0f);
  std::vector<float> scores(static_cast<size_t>(x.rows * 2 * shape.experts));
  Route args = problem.Args(x, scores.data(), &routed);
  const int64_t choices = x.rows * shape.top_k;
  Mirror mirror(device);
  args.x = mirror.In(x);
  args.weight = mirror.In(args.weight, shape.experts * shape.cols);
  if (args.bias != nullptr) args.bias = mirror.In(args.bias, shape.experts);
  if (args.correction != nullptr) args.correction = mirror.In(args.correction, shape.experts);
  if (args.uniform != nullptr) args.uniform = mirror.In(args.uniform, shape.tokens);
  args.scores = mirror.In(args.scores, x.rows * 2 * shape.experts);
  args.chosen = mirror.InOut(args.chosen, choices);
  args.weights = mirror.InOut(args.weights, choices);
  device.route(args, mirror.stream());
  mirror.Finish();
  return routed;
}

TEST(CudaRouteTest, ChoosesWhatTheCpuChooses) {
  for (const Backend* device : Devices()) {
    for (const RouteCase& shape : kRouteCases) {
      SCOPED_TRACE(&shape - kRouteCases);
      const RouteProblem problem(shape);
      const Routed expected = problem.Run(Reference(), 1);
      const Routed routed = RunOn(*device, problem, problem.x(), shape);
      EXPECT_EQ(routed.chosen, expected.chosen);
      EXPECT_TRUE(Near(routed.weights, {expected.weights.begin(), expected.weights.end()}, 1e-5));
      if (shape.capacity > 0) continue;  // about the batch by definition
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const Routed alone = RunOn(*device, problem, problem.x().Rows(t, 1), shape);
        const auto begin = routed.weights.begin() + t * shape.top_k;
        EXPECT_TRUE(SameBits(alone.weights, {begin, begin + shape.top_k}));
      }
    }
  }
}

TEST(CudaRouteTest, EqualScoresGoToTheLowerAndNoNumberIsNoCrash) {
  for (const Backend* device : Devices()) {
    for (const float value : {1.0f, std::nanf("")}) {
      const std::vector<float> zero(6 * 8, 0.0f);
      std::vector<float> x(8, value), scores(2 * 6), weights(3);
      std::vector<int32_t> chosen(3);
      Mirror mirror(*device);
      device->route({.x = mirror.In(F32(x.data(), 1, 8)),
                     .weight = mirror.In(zero.data(), 6 * 8),
                     .experts = 6,
                     .top_k = 3,
                     .scores = mirror.In(scores.data(), 2 * 6),
                     .chosen = mirror.InOut(chosen.data(), 3),
                     .weights = mirror.InOut(weights.data(), 3)},
                    mirror.stream());
      mirror.Finish();
      EXPECT_EQ(chosen, (std::vector<int32_t>{0, 1, 2}));
    }
  }
}

TEST(CudaCombineTest, AddsTheCpusBits) {
  for (const Backend* device : Devices()) {
    for (const CombineCase& shape : kCombineCases) {
      SCOPED_TRACE(shape.cols);
      const CombineProblem problem(shape);
      const Matrix expected = problem.Out(), out = problem.Out();
      ScopedStream stream(Reference(), 1);
      Reference().combine(problem.Args(expected.view()), stream);
      Mirror mirror(*device);
      Combine args = problem.Args(mirror.InOut(out.view()));
      args.rows = mirror.In(args.rows);
      args.ids = mirror.In(args.ids, shape.tokens * shape.count);
      args.weights = mirror.In(args.weights, shape.tokens * shape.count);
      device->combine(args, mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(out.Intact());
      EXPECT_TRUE(SameBits(out.Dense(), expected.Dense()));
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
