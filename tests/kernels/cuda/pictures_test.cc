// The case tables of convolutions and sparse attention, on CUDA devices against the CPU's
// reference.
#include <algorithm>
#include <vector>

#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/picture_cases.h"

namespace qianyi::testing {
namespace {

TEST(CudaUnfoldTest, RowsAreTheWindowsWithZerosOutside) {
  for (const Backend* device : Devices()) {
    for (const UnfoldCase& c : kUnfoldCases) {
      SCOPED_TRACE(c.channels);
      const Matrix picture(c.height * c.width, c.channels, 1);
      const int64_t rows = c.rows * c.out_width, cols = c.window * c.window * c.channels;
      const Matrix expected(rows, cols, 2), out(rows, cols, 2);
      ScopedStream stream(Reference(), 1);
      Reference().unfold(UnfoldArgs(c, picture.view(), expected.view()), stream);
      Mirror mirror(*device);
      device->unfold(UnfoldArgs(c, mirror.In(picture.view()), mirror.InOut(out.view())),
                     mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(out.Intact());
      EXPECT_TRUE(SameBits(out.Dense(), expected.Dense()));
    }
  }
}

std::vector<float> RunOn(const Backend& device, const SparseProblem& problem, int64_t begin,
                         int64_t count) {
  const AttentionProblem& attention = problem.attention;
  const Matrix out(count, attention.shape.heads * attention.shape.value_dim, 5);
  Mirror mirror(device);
  SparseAttention args = problem.Args(begin, count, mirror.InOut(out.view()));
  args.q = mirror.In(args.q);
  std::vector<const int32_t*> pages;
  for (int64_t t = begin; t < begin + count; ++t) {
    const auto table =
        std::find_if(attention.tables.begin(), attention.tables.end(),
                     [&](const auto& one) { return one.data() == attention.pages[t]; });
    pages.push_back(mirror.In(table->data(), static_cast<int64_t>(table->size())));
  }
  args.pages = mirror.In(pages.data(), count);
  args.slots = mirror.In(args.slots, static_cast<int64_t>(problem.slots.size()));
  args.offsets = mirror.In(args.offsets, count + 1);
  args.pivots = mirror.In(args.pivots, count);
  args.layer.pages =
      mirror.In(attention.cache.data(), static_cast<int64_t>(attention.cache.size()));
  device.sparse_attention(args, mirror.stream());
  mirror.Finish();
  return out.Intact() ? out.Dense() : std::vector<float>{};
}

TEST(CudaSparseAttentionTest, IsTheSoftmaxOverTheListAndTheSameAlone) {
  for (const Backend* device : Devices()) {
    for (const AttentionCase& shape : AttentionCases()) {
      SCOPED_TRACE(shape.heads * 1000 + shape.key_dim);
      SparseProblem problem(shape);
      const int64_t tokens = problem.attention.tokens;
      const std::vector<float> expected = problem.Run(Reference(), 1, 0, tokens);
      const std::vector<float> found = RunOn(*device, problem, 0, tokens);
      EXPECT_TRUE(Near(found, {expected.begin(), expected.end()}, 2e-5));
      const int64_t width = shape.heads * shape.value_dim;
      for (int64_t t = 0; t < tokens; t += std::max<int64_t>(1, tokens / 4)) {
        const auto begin = found.begin() + t * width;
        EXPECT_TRUE(SameBits(RunOn(*device, problem, t, 1), {begin, begin + width}));
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
