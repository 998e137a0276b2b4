#include "tests/kernels/expect.h"
#include "tests/kernels/picture_cases.h"

namespace qianyi::testing {
namespace {

std::vector<double> Expected(const UnfoldCase& c, const Tensor& picture) {
  std::vector<double> out;
  for (int64_t row = c.first_row; row < c.first_row + c.rows; ++row) {
    for (int64_t column = 0; column < c.out_width; ++column) {
      for (int64_t i = 0; i < c.window * c.window; ++i) {
        const int64_t y = row * c.stride + c.offset_y + i / c.window;
        const int64_t x = column * c.stride + c.offset_x + i % c.window;
        const bool inside = y >= 0 && y < c.height && x >= 0 && x < c.width;
        for (int64_t k = 0; k < c.channels; ++k) {
          out.push_back(inside ? picture.f32(y * c.width + x)[k] : 0.0);
        }
      }
    }
  }
  return out;
}

TEST(UnfoldTest, RowsAreTheWindowsWithZerosOutside) {
  for (const UnfoldCase& c : kUnfoldCases) {
    SCOPED_TRACE(c.channels);
    const Matrix picture(c.height * c.width, c.channels, 1);
    for (int i = 0; i < CpuVariants().count; ++i) {
      const Backend& backend = *CpuVariants().items[i];
      for (const int threads : {1, 3}) {
        ScopedStream stream(backend, threads);
        Matrix out(c.rows * c.out_width, c.window * c.window * c.channels, 2);
        backend.unfold(UnfoldArgs(c, picture.view(), out.view()), stream);
        EXPECT_TRUE(out.Intact());
        EXPECT_TRUE(Near(out.Dense(), Expected(c, picture.view()), 0.0)) << backend.variant;
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
