// The case table of linear layers on CUDA devices.
#include <tuple>

#include "tests/kernels/cases.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/cuda/run_linear.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

bool IsExact(PackedFormat format) { return format.integer() || format.dtype == DType::kF32; }

class CudaLinearTest : public ::testing::TestWithParam<std::tuple<PackedFormat, LinearCase>> {};

TEST_P(CudaLinearTest, IsWhatTheCpuComputes) {
  const auto& [format, shape] = GetParam();
  LinearProblem problem(shape, format);
  const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
  for (const Backend* device : Devices()) {
    const std::vector<float> found = RunOn(*device, problem, 0, shape.tokens);
    if (IsExact(format)) {
      EXPECT_TRUE(SameBits(found, expected));
    } else {
      EXPECT_TRUE(Near(found, {expected.begin(), expected.end()},
                       1e-6 * static_cast<double>(shape.cols + 4)));
    }
  }
}

// Few tokens and many take different kernels.
TEST_P(CudaLinearTest, ATokenDoesNotFeelItsNeighbours) {
  const auto& [format, shape] = GetParam();
  LinearProblem problem(shape, format);
  for (const Backend* device : Devices()) {
    const std::vector<float> batch = RunOn(*device, problem, 0, shape.tokens);
    ASSERT_FALSE(batch.empty());
    for (int64_t t = 0; t < shape.tokens; t += std::max<int64_t>(1, shape.tokens / 3)) {
      const auto begin = batch.begin() + t * shape.rows;
      EXPECT_TRUE(SameBits(RunOn(*device, problem, t, 1), {begin, begin + shape.rows}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaLinearTest,
                         ::testing::Combine(::testing::ValuesIn(kFormats),
                                            ::testing::ValuesIn(kLinearCases)),
                         [](const auto& test) {
                           const LinearCase& c = std::get<1>(test.param);
                           return FormatName(std::get<0>(test.param)) + "_" +
                                  std::to_string(c.tokens) + "x" + std::to_string(c.rows) + "x" +
                                  std::to_string(c.cols);
                         });

// More slices than warps take at once.
TEST(CudaLinearExtremes, ManySlices) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({3, 17, 20 * kSliceCols + 70, true}, format);
    const std::vector<float> expected = problem.Run(Cpu(), 1);
    for (const Backend* device : Devices()) {
      const std::vector<float> found = RunOn(*device, problem, 0, 3);
      if (IsExact(format)) {
        EXPECT_TRUE(SameBits(found, expected)) << FormatName(format);
      }
      EXPECT_TRUE(Near(found, {expected.begin(), expected.end()}, 1e-2)) << FormatName(format);
    }
  }
}

TEST(CudaLinearExtremes, IntegersAreExactAtTheirLimits) {
  constexpr int64_t kRows = 16, kCols = 512, kTokens = 9;
  for (PackedFormat format : kFormats) {
    if (!format.integer()) continue;
    for (int value : format.dtype == DType::kI8 ? std::vector{-127, 127} : std::vector{-8, 7}) {
      const std::vector<int8_t> values(kRows * kCols, static_cast<int8_t>(value));
      const std::vector<float> row_scale(kRows, 1.0f);
      const std::vector<int8_t> group_scale(kRows * GroupCount(format, kCols), 16);
      LinearProblem problem({kTokens, kRows, kCols}, format);
      PackIntegers(format, values.data(), row_scale.data(), group_scale.data(), kRows, kCols, kCols,
                   problem.weight.data());
      for (int64_t t = 0; t < kTokens; ++t) {
        std::fill_n(problem.x.view().f32(t), kCols, t == 0 ? -127.0f : 127.0f);
      }
      const float weight = static_cast<float>(value * (format.group > 0 ? 16 : 1));
      std::vector<float> expected(kTokens * kRows, 512.0f * 127.0f * weight);
      for (int64_t r = 0; r < kRows; ++r) expected[r] = -expected[r];
      for (const Backend* device : Devices()) {
        EXPECT_TRUE(SameBits(RunOn(*device, problem, 0, kTokens), expected)) << FormatName(format);
      }
    }
  }
}

// What large models have in a few columns; f16 ends at 65504.
TEST(CudaLinearExtremes, ActivationsOf60000StayFinite) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({12, 33, 600, true}, format);
    for (int64_t t = 0; t < 12; ++t) {
      for (int64_t k = 0; k < 600; ++k) problem.x.view().f32(t)[k] = k % 2 == 0 ? 6e4f : -5.9e4f;
    }
    const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
    for (const Backend* device : Devices()) {
      const std::vector<float> found = RunOn(*device, problem, 0, 12);
      for (float y : found) ASSERT_TRUE(std::isfinite(y)) << FormatName(format);
      EXPECT_TRUE(Near(found, {expected.begin(), expected.end()}, 6e4 * 604e-6))
          << FormatName(format);
    }
  }
}

TEST(CudaLinearExtremes, NotANumberIsNotLaundered) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({12, 33, 600, true}, format);
    problem.x.view().f32(5)[550] = NAN;
    problem.x.view().f32(7)[3] = -INFINITY;
    for (const Backend* device : Devices()) {
      const std::vector<float> found = RunOn(*device, problem, 0, 12);
      ASSERT_FALSE(found.empty());
      for (int64_t r = 0; r < 33; ++r) {
        EXPECT_TRUE(std::isnan(found[5 * 33 + r])) << FormatName(format);
        EXPECT_FALSE(std::isfinite(found[7 * 33 + r])) << FormatName(format);
        EXPECT_TRUE(std::isfinite(found[6 * 33 + r])) << FormatName(format);
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
