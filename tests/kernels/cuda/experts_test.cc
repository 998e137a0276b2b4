// The case tables of routers and their sums, on CUDA devices against the CPU's reference.
#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/kernels/cases.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/expert_cases.h"

namespace qianyi::testing {
namespace {

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

struct GroupCase {
  int64_t tokens, top_k, experts, tile_rows;
};
constexpr GroupCase kGroupCases[] = {{1, 2, 5, 8},   {3, 8, 160, 8},    {40, 3, 4, 16},
                                     {70, 2, 3, 32}, {300, 4, 300, 16}, {2, 1, 4096, 8}};

// Choices of which the last expert has none.
std::vector<int32_t> Choices(const GroupCase& shape) {
  std::vector<int32_t> chosen(static_cast<size_t>(shape.tokens * shape.top_k));
  for (size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] =
        static_cast<int32_t>((i * i * 31 + i * 7) % std::max<int64_t>(1, shape.experts - 1));
  }
  return chosen;
}

struct Grouped {
  std::vector<int32_t> row_tokens, places;
  std::vector<ExpertTile> tiles;
};
// With arrays of the device, and the host's for what comes back.
GroupChoices GroupArgs(const GroupCase& shape, const std::vector<int32_t>& chosen, Grouped* grouped,
                       Mirror* mirror) {
  const int64_t choices = shape.tokens * shape.top_k;
  grouped->row_tokens.assign(choices, -9);
  grouped->places.assign(choices, -9);
  grouped->tiles.resize(ExpertTiles(choices, shape.experts, shape.tile_rows));
  return {.chosen = mirror->In(chosen.data(), choices),
          .tokens = shape.tokens,
          .top_k = shape.top_k,
          .experts = shape.experts,
          .tile_rows = shape.tile_rows,
          .row_tokens = mirror->InOut(grouped->row_tokens.data(), choices),
          .places = mirror->InOut(grouped->places.data(), choices),
          .tiles = mirror->InOut(grouped->tiles.data(), grouped->tiles.size())};
}

TEST(CudaExpertsTest, ChoicesAreSortedByExpertAndThenByToken) {
  for (const Backend* device : Devices()) {
    for (const GroupCase& shape : kGroupCases) {
      SCOPED_TRACE(&shape - kGroupCases);
      const std::vector<int32_t> chosen = Choices(shape);
      Grouped grouped;
      Mirror mirror(*device);
      device->group_choices(GroupArgs(shape, chosen, &grouped, &mirror), mirror.stream());
      mirror.Finish();
      std::vector<int32_t> sorted(chosen.size());
      std::iota(sorted.begin(), sorted.end(), 0);
      std::stable_sort(sorted.begin(), sorted.end(),
                       [&](int32_t a, int32_t b) { return chosen[a] < chosen[b]; });
      for (size_t row = 0; row < sorted.size(); ++row) {
        EXPECT_EQ(grouped.row_tokens[row], sorted[row] / shape.top_k);
        EXPECT_EQ(grouped.places[sorted[row]], static_cast<int32_t>(row));
      }
      int32_t next = 0;
      bool ended = false;
      for (const ExpertTile& tile : grouped.tiles) {
        ended = ended || tile.expert < 0;
        EXPECT_EQ(tile.expert < 0, ended);
        if (ended) continue;
        EXPECT_EQ(tile.begin, next);
        EXPECT_LE(tile.end - tile.begin, shape.tile_rows);
        ASSERT_GT(tile.end, tile.begin);
        for (; next < tile.end; ++next) EXPECT_EQ(chosen[sorted[next]], tile.expert);
      }
      EXPECT_EQ(next, static_cast<int32_t>(sorted.size()));
    }
  }
}

// A product with each choice's expert by itself, by the CPU.
std::vector<float> ExpertProducts(const std::vector<int32_t>& chosen, int64_t top_k, Tensor x,
                                  const std::vector<LinearProblem>& experts) {
  const int64_t rows = experts[0].shape.rows, cols = x.cols;
  std::vector<float> products(chosen.size() * rows);
  const Backend& cpu = Reference();
  ScopedStream stream(cpu, 1);
  for (size_t i = 0; i < chosen.size(); ++i) {
    const LinearProblem& expert = experts[chosen[i]];
    Linear args;
    args.x = x.Rows(static_cast<int64_t>(i) / top_k, 1);
    args.weight = {expert.weight.data(), expert.format, rows, cols};
    args.out = F32(products.data() + i * rows, 1, rows);
    QuantizedStorage quantized(1, cols);
    if (expert.format.integer()) {
      args.quantized = quantized.view();
      cpu.quantize({args.x, args.quantized}, stream);
    }
    cpu.linear(args, stream);
  }
  return products;
}

class CudaExpertLinearTest : public ::testing::TestWithParam<PackedFormat> {};

TEST_P(CudaExpertLinearTest, EveryChoiceIsMultipliedWithItsExpert) {
  const PackedFormat format = GetParam();
  constexpr int64_t kRows = 37, kCols = 603, kStride = 3;
  for (const GroupCase& shape : {GroupCase{1, 3, 6, 8}, {9, 2, 3, 16}, {30, 3, 4, 32}}) {
    SCOPED_TRACE(shape.tokens);
    const std::vector<int32_t> chosen = Choices(shape);
    std::vector<LinearProblem> experts;
    for (int64_t e = 0; e < shape.experts; ++e) {
      experts.emplace_back(LinearCase{.tokens = e + 1, .rows = kRows, .cols = kCols}, format);
    }
    const Matrix x(shape.tokens, kCols, 77);
    const std::vector<float> expected = ExpertProducts(chosen, shape.top_k, x.view(), experts);
    for (const Backend* device : Devices()) {
      Mirror mirror(*device);
      Grouped grouped;
      const GroupChoices group = GroupArgs(shape, chosen, &grouped, &mirror);
      device->group_choices(group, mirror.stream());
      std::vector<const std::byte*> weights(shape.experts * kStride, nullptr);
      for (int64_t e = 0; e < shape.experts; ++e) {
        weights[e * kStride] =
            mirror.In(experts[e].weight.data(), PackedBytes(format, kRows, kCols));
      }
      const Matrix out(static_cast<int64_t>(chosen.size()), kRows, 5);
      QuantizedStorage quantized(shape.tokens, kCols);
      ExpertLinear args = {.x = mirror.In(x.view()),
                           .x_rows = group.row_tokens,
                           .tiles = group.tiles,
                           .tile_rows = shape.tile_rows,
                           .experts = shape.experts,
                           .weights = mirror.In(weights.data(), weights.size()),
                           .stride = kStride,
                           .format = format,
                           .rows = kRows,
                           .cols = kCols,
                           .out = mirror.InOut(out.view())};
      if (format.integer()) {
        args.quantized = mirror.InOut(quantized.view());
        device->quantize({args.x, args.quantized}, mirror.stream());
        args.x = {};
      }
      device->expert_linear(args, mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(out.Intact());
      const std::vector<float> dense = out.Dense();
      std::vector<float> found;
      for (const int32_t place : grouped.places) {
        found.insert(found.end(), dense.begin() + place * kRows,
                     dense.begin() + (place + 1) * kRows);
      }
      if (format.integer() || format.dtype == DType::kF32) {
        EXPECT_TRUE(SameBits(found, expected));
      } else {
        EXPECT_TRUE(Near(found, {expected.begin(), expected.end()}, 1e-6 * (kCols + 4)));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaExpertLinearTest, ::testing::ValuesIn(kFormats),
                         [](const auto& test) { return FormatName(test.param); });

}  // namespace
}  // namespace qianyi::testing
