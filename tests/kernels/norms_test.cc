#include <algorithm>
#include <functional>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

constexpr float kEpsilon = 1e-5f;

using Norm = std::function<void(const Backend&, Stream, Tensor x, Tensor out)>;

// Every variant and thread count, one token at a time and in place.
void ExpectSameEverywhere(const NormCase& c, const Norm& norm, const std::vector<float>& expected) {
  for (int i = 0; i < CpuVariants().count; ++i) {
    const Backend& backend = *CpuVariants().items[i];
    for (int threads : {1, 2}) {
      ScopedStream stream(backend, threads);
      const Matrix x(c.tokens, c.cols, 1);
      Matrix out(c.tokens, c.cols, 2);
      norm(backend, stream, x.view(), out.view());
      EXPECT_TRUE(out.Intact());
      EXPECT_TRUE(SameBits(out.Dense(), expected)) << backend.variant;
      Matrix in_place(c.tokens, c.cols, 1);
      for (int64_t t = 0; t < c.tokens; ++t) {
        norm(backend, stream, in_place.view().Rows(t, 1), in_place.view().Rows(t, 1));
      }
      EXPECT_TRUE(SameBits(in_place.Dense(), expected)) << backend.variant << ", in place";
    }
  }
}

void Check(const Norm& norm, const std::function<std::vector<double>(const float*, int64_t)>& row) {
  for (const NormCase& c : kNormCases) {
    SCOPED_TRACE(c.cols);
    const Backend& reference = *CpuVariants().items[0];
    const Matrix x(c.tokens, c.cols, 1);
    Matrix out(c.tokens, c.cols, 2);
    ScopedStream stream(reference, 1);
    norm(reference, stream, x.view(), out.view());
    std::vector<double> expected;
    for (int64_t t = 0; t < c.tokens; ++t) {
      const std::vector<double> one = row(x.view().f32(t), c.cols);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    EXPECT_TRUE(Near(out.Dense(), expected, 1e-5));
    ExpectSameEverywhere(c, norm, out.Dense());
  }
}

TEST(NormsTest, LayerNorm) {
  const std::vector<float> weight = RandomValues(4096, 3), bias = RandomValues(4096, 4);
  Check(
      [&](const Backend& backend, Stream stream, Tensor x, Tensor out) {
        backend.layer_norm({x, weight.data(), bias.data(), kEpsilon, out}, stream);
      },
      [&](const float* x, int64_t cols) {
        double mean = 0.0, variance = 0.0;
        for (int64_t c = 0; c < cols; ++c) mean += x[c] / static_cast<double>(cols);
        for (int64_t c = 0; c < cols; ++c) {
          variance += (x[c] - mean) * (x[c] - mean) / static_cast<double>(cols);
        }
        std::vector<double> y;
        for (int64_t c = 0; c < cols; ++c) {
          y.push_back((x[c] - mean) / std::sqrt(variance + kEpsilon) * weight[c] + bias[c]);
        }
        return y;
      });
}

// Of x / (max|x| / 8), each row by its own maximum; a row of tiny numbers shows the difference.
TEST(NormsTest, LayerNormScaledByTheMaximumOfTheRow) {
  const std::vector<float> weight = RandomValues(4096, 3), bias = RandomValues(4096, 4);
  Check(
      [&](const Backend& backend, Stream stream, Tensor x, Tensor out) {
        std::vector<float> tiny(x.cols);
        for (int64_t t = 0; t < x.rows; ++t) {
          for (int64_t c = 0; c < x.cols; ++c) tiny[c] = 1e-3f * x.f32(t)[c];
          backend.layer_norm({.x = F32(tiny.data(), 1, x.cols),
                              .weight = weight.data(),
                              .bias = bias.data(),
                              .epsilon = kEpsilon,
                              .out = out.Rows(t, 1),
                              .max_scale = 8.0f},
                             stream);
        }
      },
      [&](const float* x, int64_t cols) {
        double most = 0.0, mean = 0.0, variance = 0.0;
        for (int64_t c = 0; c < cols; ++c) most = std::max(most, std::fabs(1e-3 * x[c]));
        const double scale = 8.0 / most * 1e-3;
        for (int64_t c = 0; c < cols; ++c) mean += scale * x[c] / static_cast<double>(cols);
        for (int64_t c = 0; c < cols; ++c) {
          variance += (scale * x[c] - mean) * (scale * x[c] - mean) / static_cast<double>(cols);
        }
        std::vector<double> y;
        for (int64_t c = 0; c < cols; ++c) {
          y.push_back((scale * x[c] - mean) / std::sqrt(variance + kEpsilon) * weight[c] + bias[c]);
        }
        return y;
      });
}

TEST(NormsTest, ARowOfZerosIsTheBias) {
  std::vector<float> x(20, 0.0f), out(20);
  const std::vector<float> weight = RandomValues(20, 3), bias = RandomValues(20, 4);
  ScopedStream stream(Cpu(), 1);
  Cpu().layer_norm({.x = F32(x.data(), 1, 20),
                    .weight = weight.data(),
                    .bias = bias.data(),
                    .epsilon = kEpsilon,
                    .out = F32(out.data(), 1, 20),
                    .max_scale = 8.0f},
                   stream);
  EXPECT_TRUE(SameBits(out, bias));
}

TEST(NormsTest, RmsNorm) {
  const std::vector<float> weight = RandomValues(4096, 3);
  Check(
      [&](const Backend& backend, Stream stream, Tensor x, Tensor out) {
        backend.rms_norm({x, weight.data(), kEpsilon, out}, stream);
      },
      [&](const float* x, int64_t cols) {
        double mean = 0.0;
        for (int64_t c = 0; c < cols; ++c) mean += double{x[c]} * x[c] / static_cast<double>(cols);
        std::vector<double> y;
        for (int64_t c = 0; c < cols; ++c) {
          y.push_back(x[c] / std::sqrt(mean + kEpsilon) * weight[c]);
        }
        return y;
      });
}

}  // namespace
}  // namespace qianyi::testing
