#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_scalar.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

double Exact(Activation kind, double x) {
  switch (kind) {
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return 0.0;
}

constexpr Activation kKinds[] = {Activation::kGeluTanh, Activation::kGeluErf, Activation::kSilu,
                                 Activation::kRelu};

TEST(VecMathTest, ExpIsWithinItsError) {
  double worst = 0.0;
  for (double x = -87.3; x <= 88.0; x += 0.000731) {
    const float f = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(f));
    worst = std::max(worst, std::fabs(cpu::Exp(cpu::Vec::Set(f)).lane[0] / exact - 1));
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(cpu::Exp(cpu::Vec::Set(-87.4f)).lane[0], 0.0f);
  EXPECT_EQ(cpu::Exp(cpu::Vec::Set(-INFINITY)).lane[0], 0.0f);
  EXPECT_EQ(cpu::Exp(cpu::Vec::Set(0.0f)).lane[0], 1.0f);
  EXPECT_EQ(cpu::Exp(cpu::Vec::Set(INFINITY)).lane[0], cpu::Exp(cpu::Vec::Set(88.0f)).lane[0]);
  EXPECT_TRUE(std::isnan(cpu::Exp(cpu::Vec::Set(NAN)).lane[0]));
}

TEST(VecMathTest, ErfIsWithinItsError) {
  double worst = 0.0;
  for (double x = -6.0; x <= 6.0; x += 0.0000713) {
    const float f = static_cast<float>(x);
    worst = std::max(
        worst, std::fabs(cpu::Erf(cpu::Vec::Set(f)).lane[0] - std::erf(static_cast<double>(f))));
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(cpu::Erf(cpu::Vec::Set(INFINITY)).lane[0], 1.0f);
  EXPECT_EQ(cpu::Erf(cpu::Vec::Set(-INFINITY)).lane[0], -1.0f);
  EXPECT_TRUE(std::isnan(cpu::Erf(cpu::Vec::Set(NAN)).lane[0]));
}

TEST(ActivationsTest, AreWithinTheirError) {
  for (Activation kind : kKinds) {
    double worst = 0.0;
    for (double x = -12.0; x <= 12.0; x += 0.00037) {
      const float f = static_cast<float>(x);
      const double exact = Exact(kind, static_cast<double>(f));
      const float y = cpu::Activated(kind, cpu::Vec::Set(f)).lane[0];
      worst = std::max(worst, std::fabs(y - exact) / std::max(1.0, std::fabs(exact)));
    }
    EXPECT_LT(worst, 6e-7) << static_cast<int>(kind);
    EXPECT_TRUE(std::isnan(cpu::Activated(kind, cpu::Vec::Set(NAN)).lane[0]));
    EXPECT_EQ(cpu::Activated(kind, cpu::Vec::Set(1e30f)).lane[0], 1e30f);
  }
}

// Values far and near, with those that are not numbers.
Matrix Inputs(int64_t tokens, int64_t cols, uint64_t seed) {
  Matrix x(tokens, cols, seed);
  const float specials[] = {0.0f,   -0.0f,    1e-40f,    90.0f, -90.0f, 1e30f,
                            -1e30f, INFINITY, -INFINITY, NAN,   3.99f,  -4.01f};
  for (int64_t i = 0; i < 12 && i < cols; ++i) x.view().f32(0)[i] = specials[i];
  return x;
}

TEST(ActivationsTest, EveryVariantGivesTheSameBits) {
  for (Activation kind : kKinds) {
    for (auto [tokens, cols] : {std::pair<int64_t, int64_t>{1, 1}, {2, 17}, {3, 511}, {2, 9000}}) {
      std::vector<float> plain, gated;
      for (int i = 0; i < CpuVariants().count; ++i) {
        const Backend& backend = *CpuVariants().items[i];
        for (int threads : {1, 2}) {
          ScopedStream stream(backend, threads);
          Matrix x = Inputs(tokens, cols, 1);
          const Matrix value(tokens, cols, 2);
          Matrix out(tokens, cols, 3);
          backend.gated_activate({kind, x.view(), value.view(), out.view()}, stream);
          backend.activate({kind, x.view(), x.view()}, stream);  // in place
          EXPECT_TRUE(x.Intact() && out.Intact());
          if (plain.empty()) plain = x.Dense(), gated = out.Dense();
          EXPECT_TRUE(SameBits(x.Dense(), plain)) << backend.variant;
          EXPECT_TRUE(SameBits(out.Dense(), gated)) << backend.variant;
        }
      }
      const Matrix value(tokens, cols, 2), x = Inputs(tokens, cols, 1);
      for (int64_t c = 12; c < cols; ++c) {
        const double exact = Exact(kind, x.view().f32()[c]);
        EXPECT_NEAR(plain[c], exact, 1e-6);
        EXPECT_NEAR(gated[c], exact * value.view().f32()[c], 5e-6);
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
