#include <algorithm>
#include <limits>
#include <tuple>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

class LinearTest : public ::testing::TestWithParam<std::tuple<PackedFormat, LinearCase>> {
 protected:
  LinearTest() : problem_(std::get<1>(GetParam()), std::get<0>(GetParam())) {}
  LinearProblem problem_;
};

// In double, from the weights as packed and the activations as given.
std::vector<double> Oracle(const LinearProblem& problem) {
  const LinearCase& c = problem.shape;
  std::vector<float> weights(c.rows * c.cols);
  UnpackRows({problem.weight.data(), problem.format, c.rows, c.cols}, weights.data());
  std::vector<double> out(c.tokens * c.rows);
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = 0; r < c.rows; ++r) {
      double y = c.bias ? problem.bias[r] : 0.0;
      for (int64_t k = 0; k < c.cols; ++k) {
        y += static_cast<double>(problem.x.view().f32(t)[k]) * weights[r * c.cols + k];
      }
      if (c.residual != Residual::kNone) y += 0.75 * problem.residual.view().f32(t)[r];
      out[t * c.rows + r] = y;
    }
  }
  return out;
}

// Floats: rounding of `cols` products of size about 1. Integers: also half a step of
// the activations, 1/127 of their largest of about 3, in each of the products.
double Tolerance(const LinearProblem& problem) {
  const double cols = static_cast<double>(problem.shape.cols);
  const double rounding = 1e-6 * (cols + 1);
  if (!problem.format.integer()) return rounding;
  return rounding + 0.5 * 3.4 / 127 * 5.0 * std::sqrt(cols);
}

TEST_P(LinearTest, IsTheProduct) {
  EXPECT_TRUE(
      Near(problem_.Run(*CpuVariants().items[0], 1), Oracle(problem_), Tolerance(problem_)));
}

TEST_P(LinearTest, EveryVariantAndThreadCountGivesTheSameBits) {
  const std::vector<float> expected = problem_.Run(*CpuVariants().items[0], 1);
  for (int i = 0; i < CpuVariants().count; ++i) {
    const Backend& backend = *CpuVariants().items[i];
    for (int threads : {1, 2, 3}) {
      EXPECT_TRUE(SameBits(problem_.Run(backend, threads), expected))
          << backend.variant << ", " << threads << " threads";
    }
  }
}

TEST_P(LinearTest, ATokenDoesNotFeelItsNeighbours) {
  for (int i = 0; i < CpuVariants().count; ++i) {
    const Backend& backend = *CpuVariants().items[i];
    const std::vector<float> batch = problem_.Run(backend, 2);
    ASSERT_FALSE(batch.empty());
    // Every token of a small batch, some of a large one.
    const int64_t step = std::max<int64_t>(1, problem_.shape.tokens / 7);
    for (int64_t t = 0; t < problem_.shape.tokens; t += step) {
      const std::vector<float> alone = problem_.RunTokens(backend, 1, t, 1);
      const auto begin = batch.begin() + t * problem_.shape.rows;
      EXPECT_TRUE(SameBits(alone, {begin, begin + problem_.shape.rows}))
          << backend.variant << ", token " << t;
    }
  }
}

TEST_P(LinearTest, BlocksApartAreOneMatrix) {
  const LinearCase& c = problem_.shape;
  const std::vector<float> expected = problem_.Run(*CpuVariants().items[0], 1);
  const size_t panel_bytes = PanelBytes(problem_.format, c.cols);
  const int64_t panels = (c.rows + kPanelRows - 1) / kPanelRows;
  for (int64_t block_panels = 1; block_panels <= std::min<int64_t>(panels, 4); ++block_panels) {
    const size_t stride = block_panels * panel_bytes + 192;
    AlignedBytes apart((panels + block_panels - 1) / block_panels * stride);
    std::fill_n(apart.data(), apart.size(), std::byte{0x7f});
    for (int64_t p = 0; p < panels; ++p) {
      std::copy_n(problem_.weight.data() + p * panel_bytes, panel_bytes,
                  apart.data() + p / block_panels * stride + p % block_panels * panel_bytes);
    }
    std::vector<const std::byte*> blocks;
    for (const std::byte* at = apart.data(); at != apart.data() + apart.size(); at += stride) {
      blocks.push_back(at);
    }
    problem_.apart = {.data = apart.data(),
                      .format = problem_.format,
                      .rows = c.rows,
                      .cols = c.cols,
                      .block_rows = block_panels * kPanelRows,
                      .blocks = blocks.data()};
    for (int i = 0; i < CpuVariants().count; ++i) {
      const Backend& backend = *CpuVariants().items[i];
      EXPECT_TRUE(SameBits(problem_.Run(backend, 2), expected))
          << backend.variant << ", blocks of " << block_panels << " panels";
    }
    problem_.apart = {};
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, LinearTest,
                         ::testing::Combine(::testing::ValuesIn(kFormats),
                                            ::testing::ValuesIn(kLinearCases)),
                         [](const auto& test) {
                           const LinearCase& c = std::get<1>(test.param);
                           return FormatName(std::get<0>(test.param)) + "_" +
                                  std::to_string(c.tokens) + "x" + std::to_string(c.rows) + "x" +
                                  std::to_string(c.cols);
                         });

// The largest integers of every kind at once: nothing may saturate.
TEST(LinearExtremes, IntegersAreExactAtTheirLimits) {
  constexpr int64_t kRows = 16, kCols = 512, kTokens = 9;
  for (PackedFormat format : kFormats) {
    if (!format.integer()) continue;
    for (int sign : {-1, 1}) {
      const bool int8 = format.dtype == DType::kI8;
      const int8_t value = static_cast<int8_t>(int8 ? 127 * sign : sign < 0 ? -8 : 7);
      const std::vector<int8_t> values(kRows * kCols, value);
      const std::vector<float> row_scale(kRows, 1.0f);
      const std::vector<int8_t> group_scale(kRows * GroupCount(format, kCols), 16);
      AlignedBytes packed(PackedBytes(format, kRows, kCols));
      PackIntegers(format, values.data(), row_scale.data(), group_scale.data(), kRows, kCols, kCols,
                   packed.data());
      const int weight = value * (format.group > 0 ? 16 : 1);
      for (int i = 0; i < CpuVariants().count; ++i) {
        const Backend& backend = *CpuVariants().items[i];
        ScopedStream stream(backend, 1);
        std::vector<float> x(kTokens * kCols, 127.0f), out(kTokens * kRows);
        for (int64_t k = 0; k < kCols; ++k) x[k] = -127.0f;  // the first token
        QuantizedStorage quantized(kTokens, kCols);
        backend.quantize({F32(x.data(), kTokens, kCols), quantized.view()}, stream);
        Linear args;
        args.quantized = quantized.view();
        args.weight = {packed.data(), format, kRows, kCols};
        args.out = F32(out.data(), kTokens, kRows);
        backend.linear(args, stream);
        std::vector<float> expected(kTokens * kRows, 512.0f * 127.0f * weight);
        for (int64_t r = 0; r < kRows; ++r) expected[r] = -expected[r];
        EXPECT_TRUE(SameBits(out, expected)) << FormatName(format) << " " << backend.variant;
      }
    }
  }
}

TEST(LinearExtremes, NotANumberIsNotLaundered) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({12, 33, 600, true}, format);
    problem.x.view().f32(5)[550] = std::numeric_limits<float>::quiet_NaN();
    problem.x.view().f32(7)[3] = -std::numeric_limits<float>::infinity();
    const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
    for (int64_t r = 0; r < 33; ++r) {
      EXPECT_TRUE(std::isnan(expected[5 * 33 + r])) << FormatName(format);
      EXPECT_FALSE(std::isfinite(expected[7 * 33 + r])) << FormatName(format);
      EXPECT_TRUE(std::isfinite(expected[6 * 33 + r])) << FormatName(format);
    }
    for (int i = 0; i < CpuVariants().count; ++i) {
      EXPECT_TRUE(SameBits(problem.Run(*CpuVariants().items[i], 2), expected))
          << FormatName(format) << " " << CpuVariants().items[i]->variant;
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
