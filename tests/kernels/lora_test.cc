#include <algorithm>
#include <vector>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

struct Problem {
  explicit Problem(const LoraCase& of) : shape(of), x(of.tokens, of.cols, 1) {
    for (const LoraPart& part : shape.parts) {
      const uint64_t seed = 10 + 2 * a.size();
      a.push_back(RandomValues(part.rank * shape.cols, seed));
      b.push_back(RandomValues(part.rank * part.rows, seed + 1));
      down.emplace_back(part.tokens.size() * part.rank + 1, 12345.0f);
    }
  }
  // `only`: the one token that takes part; -1 = all.
  std::vector<float> Run(const Backend& backend, int threads, int32_t only = -1) {
    ScopedStream stream(backend, threads);
    Matrix out(shape.tokens, shape.rows, 3);
    std::vector<LoraItem> items;
    for (size_t i = 0; i < shape.parts.size(); ++i) {
      const LoraPart& part = shape.parts[i];
      const auto at = std::find(part.tokens.begin(), part.tokens.end(), only);
      if (only >= 0 && at == part.tokens.end()) continue;
      const int64_t first = only < 0 ? 0 : at - part.tokens.begin();
      const int64_t count = only < 0 ? static_cast<int64_t>(part.tokens.size()) : 1;
      const LoraWeights weights = {a[i].data(),     b[i].data(),    part.rank,
                                   0.75f * (1 + i), part.row_begin, part.rows};
      items.push_back({weights, part.tokens.data() + first, count, down[i].data()});
    }
    backend.lora({.x = x.view(),
                  .items = items.data(),
                  .count = static_cast<int64_t>(items.size()),
                  .out = out.view()},
                 stream);
    EXPECT_TRUE(out.Intact());
    for (size_t i = 0; i < down.size(); ++i) EXPECT_EQ(down[i].back(), 12345.0f);
    return out.Dense();
  }
  std::vector<double> Expected() const {
    const std::vector<float> before = Matrix(shape.tokens, shape.rows, 3).Dense();
    std::vector<double> out(before.begin(), before.end());
    for (size_t i = 0; i < shape.parts.size(); ++i) {
      const LoraPart& part = shape.parts[i];
      for (const int32_t t : part.tokens) {
        for (int64_t j = 0; j < part.rank; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < shape.cols; ++k) {
            sum += double{a[i][j * shape.cols + k]} * x.view().f32(t)[k];
          }
          for (int64_t r = 0; r < part.rows; ++r) {
            out[t * shape.rows + part.row_begin + r] +=
                0.75 * (1 + i) * sum * b[i][j * part.rows + r];
          }
        }
      }
    }
    return out;
  }

  LoraCase shape;
  Matrix x;
  std::vector<std::vector<float>> a, b, down;
};

TEST(LoraTest, AddsTheProductAndIsTheSameEverywhere) {
  for (const LoraCase& shape : LoraCases()) {
    SCOPED_TRACE(shape.cols);
    Problem problem(shape);
    const std::vector<float> reference = problem.Run(*CpuVariants().items[0], 1);
    EXPECT_TRUE(Near(reference, problem.Expected(), 2e-5 * static_cast<double>(shape.cols + 64)));
    for (int i = 0; i < CpuVariants().count; ++i) {
      const Backend& backend = *CpuVariants().items[i];
      for (const int threads : {1, 2, 3}) {
        EXPECT_TRUE(SameBits(problem.Run(backend, threads), reference)) << backend.variant;
      }
    }
  }
}

// A token alone gives the bits it gives among the others, and the others stay as they were.
TEST(LoraTest, ATokenDoesNotDependOnTheOthers) {
  for (const LoraCase& shape : LoraCases()) {
    SCOPED_TRACE(shape.cols);
    Problem problem(shape);
    const Backend& backend = Cpu();
    const std::vector<float> together = problem.Run(backend, 2);
    std::vector<float> apart = Matrix(shape.tokens, shape.rows, 3).Dense();
    for (int32_t t = 0; t < shape.tokens; ++t) {
      const std::vector<float> alone = problem.Run(backend, 1, t);
      for (int32_t other = 0; other < shape.tokens; ++other) {
        const std::vector<float> row(alone.begin() + other * shape.rows,
                                     alone.begin() + (other + 1) * shape.rows);
        if (other == t) {
          std::copy(row.begin(), row.end(), apart.begin() + t * shape.rows);
        } else {
          const std::vector<float> before = Matrix(shape.tokens, shape.rows, 3).Dense();
          EXPECT_TRUE(std::equal(row.begin(), row.end(), before.begin() + other * shape.rows));
        }
      }
    }
    EXPECT_TRUE(SameBits(apart, together));
  }
}

}  // namespace
}  // namespace qianyi::testing
