#include "tests/kernels/expect.h"
#include "tests/kernels/picture_cases.h"

namespace qianyi::testing {
namespace {

TEST(SparseAttentionTest, IsTheSoftmaxOverTheListAndTheSameEverywhere) {
  for (const AttentionCase& shape : AttentionCases()) {
    SCOPED_TRACE(shape.heads * 1000 + shape.key_dim);
    SparseProblem problem(shape);
    const int64_t tokens = problem.attention.tokens;
    const std::vector<float> reference = problem.Run(*CpuVariants().items[0], 1, 0, tokens);
    EXPECT_TRUE(Near(reference, problem.Expected(), 2e-5));
    for (int i = 0; i < CpuVariants().count; ++i) {
      const Backend& backend = *CpuVariants().items[i];
      EXPECT_TRUE(SameBits(problem.Run(backend, 2, 0, tokens), reference)) << backend.variant;
      std::vector<float> apart;
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<float> one = problem.Run(backend, 1, t, 1);
        apart.insert(apart.end(), one.begin(), one.end());
      }
      EXPECT_TRUE(SameBits(apart, reference)) << backend.variant << ", one by one";
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
