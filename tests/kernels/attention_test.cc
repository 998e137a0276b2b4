#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

class AttentionTest : public ::testing::TestWithParam<AttentionCase> {
 protected:
  AttentionTest() : problem_(GetParam()) {}
  AttentionProblem problem_;
};

// Plain softmax attention in double over the same cache.
std::vector<double> Oracle(const AttentionProblem& problem) {
  const AttentionCase& c = problem.shape;
  std::vector<double> out;
  const auto element = [&](int64_t t, int32_t slot, int64_t head, int64_t d, bool value) {
    return CacheElement(problem.layer, problem.pages[t][slot / kPageTokens], slot % kPageTokens,
                        head, d, value);
  };
  for (int64_t t = 0; t < problem.tokens; ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t kv_head = h / (c.heads / c.kv_heads);
      std::vector<double> scores;
      double max = -INFINITY, sum = 0.0;
      for (int32_t j = 0; j < problem.visible[t]; ++j) {
        double dot = 0.0;
        for (int64_t d = 0; d < c.key_dim; ++d) {
          dot += problem.q.view().f32(t)[h * c.key_dim + d] * element(t, j, kv_head, d, false);
        }
        scores.push_back(0.25 * dot);
        max = std::max(max, scores.back());
      }
      for (double& score : scores) sum += score = std::exp(score - max);
      for (int64_t d = 0; d < c.value_dim; ++d) {
        double y = 0.0;
        for (int32_t j = 0; j < problem.visible[t]; ++j) {
          y += scores[j] / sum * element(t, j, kv_head, d, true);
        }
        out.push_back(y);
      }
    }
  }
  return out;
}

TEST_P(AttentionTest, IsSoftmaxOfWhatIsVisible) {
  EXPECT_TRUE(Near(problem_.Run(*CpuVariants().items[0], 1), Oracle(problem_), 1e-5));
}

TEST_P(AttentionTest, EveryVariantAndThreadCountGivesTheSameBits) {
  const std::vector<float> expected = problem_.Run(*CpuVariants().items[0], 1);
  for (int i = 0; i < CpuVariants().count; ++i) {
    const Backend& backend = *CpuVariants().items[i];
    for (int threads : {1, 2, 3, 16}) {
      EXPECT_TRUE(SameBits(problem_.Run(backend, threads), expected))
          << backend.variant << ", " << threads << " threads";
    }
  }
}

TEST_P(AttentionTest, ATokenDoesNotFeelItsNeighbours) {
  const int64_t width = problem_.shape.heads * problem_.shape.value_dim;
  for (int i = 0; i < CpuVariants().count; ++i) {
    const Backend& backend = *CpuVariants().items[i];
    const std::vector<float> batch = problem_.Run(backend, 2);
    ASSERT_FALSE(batch.empty());
    for (int64_t t = 0; t < problem_.tokens; ++t) {
      const auto begin = batch.begin() + t * width;
      EXPECT_TRUE(SameBits(problem_.RunToken(backend, t), {begin, begin + width}))
          << backend.variant << ", token " << t;
    }
  }
}

// What lies behind the visible slots must not matter, even where it is not a number.
TEST_P(AttentionTest, InvisibleSlotsDoNotEnter) {
  const AttentionCase& c = problem_.shape;
  const std::vector<float> expected = problem_.Run(*CpuVariants().items[0], 1);
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    const int32_t page = problem_.tables[s].back();
    const Matrix nan_k(1, c.kv_heads * c.key_dim, 1), nan_v(1, c.kv_heads * c.value_dim, 1);
    for (int64_t i = 0; i < c.kv_heads * c.key_dim; ++i) nan_k.view().f32()[i] = NAN;
    for (int64_t i = 0; i < c.kv_heads * c.value_dim; ++i) nan_v.view().f32()[i] = NAN;
    ScopedStream stream(Cpu(), 1);
    for (int64_t slot = (c.lengths[s] - 1) % kPageTokens + 1; slot < kPageTokens; ++slot) {
      const int64_t at = int64_t{page} * kPageTokens + slot;
      Cpu().kv_write({nan_k.view(), nan_v.view(), &at, problem_.layer}, stream);
    }
  }
  for (int i = 0; i < CpuVariants().count; ++i) {
    EXPECT_TRUE(SameBits(problem_.Run(*CpuVariants().items[i], 2), expected))
        << CpuVariants().items[i]->variant;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTest, ::testing::ValuesIn(AttentionCases()),
                         [](const auto& test) { return NameOf(test.param); });

TEST(AttentionExtremes, NoRows) {
  AttentionProblem problem({4, 4, 32, 32, DType::kF32, {3}, {1}});
  for (int i = 0; i < CpuVariants().count; ++i) {
    ScopedStream stream(*CpuVariants().items[i], 2);
    CpuVariants().items[i]->attention(problem.Args(0, 0, {}), stream);
  }
}

TEST(AttentionExtremes, NotANumberInAKeyReachesTheOutput) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    AttentionProblem problem({4, 2, 32, 32, dtype, {300}, {1}});
    const Matrix k(1, 64, 1), v(1, 64, 1);
    k.view().f32()[3] = NAN;  // of the first kv head
    const int64_t slot = int64_t{problem.tables[0][0]} * kPageTokens + 5;
    ScopedStream stream(Cpu(), 1);
    Cpu().kv_write({k.view(), v.view(), &slot, problem.layer}, stream);
    const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
    for (int i = 0; i < 64; ++i) EXPECT_TRUE(std::isnan(expected[i]));
    for (int i = 64; i < 128; ++i) EXPECT_TRUE(std::isfinite(expected[i]));
    for (int i = 0; i < CpuVariants().count; ++i) {
      EXPECT_TRUE(SameBits(problem.Run(*CpuVariants().items[i], 1), expected));
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
