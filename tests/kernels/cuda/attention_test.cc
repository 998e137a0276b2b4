// The case table of attention on CUDA devices.
#include <algorithm>

#include "tests/kernels/cases.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

// `spread`: the caller says how many slots the longest sees, so that every split may have a block.
std::vector<float> RunOn(const Backend& device, const AttentionProblem& problem, int64_t begin,
                         int64_t count, bool spread) {
  Mirror mirror(device);
  Matrix out(count, problem.shape.heads * problem.shape.value_dim, 5);
  Attention args = problem.Args(begin, count, mirror.InOut(out.view()));
  args.q = mirror.In(args.q);
  std::vector<const int32_t*> pages;
  for (int64_t t = begin; t < begin + count; ++t) {
    for (const std::vector<int32_t>& table : problem.tables) {
      if (problem.pages[t] == table.data()) {
        pages.push_back(mirror.In(table.data(), static_cast<int64_t>(table.size())));
      }
    }
  }
  args.pages = mirror.In(pages.data(), count);
  if (spread) args.longest = *std::max_element(args.visible, args.visible + count);
  args.visible = mirror.In(args.visible, count);
  args.layer.pages = mirror.In(problem.cache.data(), static_cast<int64_t>(problem.cache.size()));
  device.attention(args, mirror.stream());
  mirror.Finish();
  return out.Intact() ? out.Dense() : std::vector<float>{};
}

class CudaAttentionTest : public ::testing::TestWithParam<AttentionCase> {
 protected:
  CudaAttentionTest() : problem_(GetParam()) {}
  AttentionProblem problem_;
};

TEST_P(CudaAttentionTest, IsWhatTheCpuComputes) {
  const std::vector<float> expected = problem_.Run(*CpuVariants().items[0], 1);
  for (const Backend* device : Devices()) {
    EXPECT_TRUE(Near(RunOn(*device, problem_, 0, problem_.tokens, false),
                     {expected.begin(), expected.end()}, 1e-5));
  }
}

TEST_P(CudaAttentionTest, NeitherNeighboursNorBlocksChangeABit) {
  const int64_t width = problem_.shape.heads * problem_.shape.value_dim;
  for (const Backend* device : Devices()) {
    const std::vector<float> batch = RunOn(*device, problem_, 0, problem_.tokens, false);
    ASSERT_FALSE(batch.empty());
    EXPECT_TRUE(SameBits(RunOn(*device, problem_, 0, problem_.tokens, true), batch));
    for (int64_t t = 0; t < problem_.tokens; t += std::max<int64_t>(1, problem_.tokens / 4)) {
      const auto begin = batch.begin() + t * width;
      EXPECT_TRUE(SameBits(RunOn(*device, problem_, t, 1, t % 2 == 0), {begin, begin + width}));
    }
  }
}

TEST_P(CudaAttentionTest, InvisibleSlotsDoNotEnter) {
  const AttentionCase& c = problem_.shape;
  std::vector<std::vector<float>> expected;
  for (const Backend* device : Devices()) {
    expected.push_back(RunOn(*device, problem_, 0, problem_.tokens, false));
  }
  ScopedStream stream(Cpu(), 1);
  Matrix nan_k(1, c.kv_heads * c.key_dim, 1), nan_v(1, c.kv_heads * c.value_dim, 1);
  std::fill_n(nan_k.view().f32(), c.kv_heads * c.key_dim, NAN);
  std::fill_n(nan_v.view().f32(), c.kv_heads * c.value_dim, NAN);
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    for (int64_t slot = (c.lengths[s] - 1) % kPageTokens + 1; slot < kPageTokens; ++slot) {
      const int64_t at = int64_t{problem_.tables[s].back()} * kPageTokens + slot;
      Cpu().kv_write({nan_k.view(), nan_v.view(), &at, problem_.layer}, stream);
    }
  }
  for (const Backend* device : Devices()) {
    EXPECT_TRUE(SameBits(RunOn(*device, problem_, 0, problem_.tokens, false), expected.front()));
    expected.erase(expected.begin());
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAttentionTest, ::testing::ValuesIn(AttentionCases()),
                         [](const auto& test) { return NameOf(test.param); });

// Scores far beyond f16: 6·10⁴ in queries and keys of f32, and of f16 as far as it goes.
TEST(CudaAttentionExtremes, ActivationsOf60000StayFinite) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    AttentionProblem problem({4, 2, 32, 32, dtype, {300}, {5}});
    for (int64_t t = 0; t < 5; ++t) std::fill_n(problem.q.view().f32(t), 4 * 32, 6e4f);
    Matrix k(300, 64, 20), v(300, 64, 40);
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < 300; ++i) {
      slots.push_back(int64_t{problem.tables[0][i / kPageTokens]} * kPageTokens + i % kPageTokens);
      for (int64_t d = 0; d < 64; ++d) {
        k.view().f32(i)[d] = i % 3 == 0 ? 6e4f : -6e4f;
        v.view().f32(i)[d] = i % 2 == 0 ? 6e4f : 5e4f;
      }
    }
    ScopedStream stream(Cpu(), 1);
    Cpu().kv_write({k.view(), v.view(), slots.data(), problem.layer}, stream);
    const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
    for (const Backend* device : Devices()) {
      const std::vector<float> found = RunOn(*device, problem, 0, 5, true);
      for (float y : found) ASSERT_TRUE(std::isfinite(y));
      EXPECT_TRUE(Near(found, {expected.begin(), expected.end()}, 0.2));
    }
  }
}

TEST(CudaAttentionExtremes, NotANumberInAKeyReachesTheOutput) {
  for (DType dtype : {DType::kF32, DType::kI8}) {
    AttentionProblem problem({4, 2, 32, 32, dtype, {300}, {1}});
    const Matrix k(1, 64, 1), v(1, 64, 1);
    k.view().f32()[3] = NAN;
    const int64_t slot = int64_t{problem.tables[0][0]} * kPageTokens + 5;
    ScopedStream stream(Cpu(), 1);
    Cpu().kv_write({k.view(), v.view(), &slot, problem.layer}, stream);
    for (const Backend* device : Devices()) {
      const std::vector<float> found = RunOn(*device, problem, 0, 1, false);
      ASSERT_EQ(found.size(), 128u);
      for (int i = 0; i < 64; ++i) EXPECT_TRUE(std::isnan(found[i]));
      for (int i = 64; i < 128; ++i) EXPECT_TRUE(std::isfinite(found[i]));
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
