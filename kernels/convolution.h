// Arguments of the kernel that turns a convolution into a matrix product.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

// A picture is a matrix [height * width, channels], pixels row-major. Row i of `out` is the
// window of the i-th place in [first_row * out_width, …): window² pixels, row-major, each with all
// its channels; what lies outside the picture is 0. The window of place (y, x) begins at pixel
// (y * stride + offset_y, x * stride + offset_x).
struct Unfold {
  Tensor picture;  // [height * width, channels]
  int64_t height = 0, width = 0;
  int64_t window = 1;
  int64_t stride = 1;
  int64_t offset_y = 0, offset_x = 0;
  int64_t out_width = 0;  // places in a row
  int64_t first_row = 0;  // of places
  Tensor out;             // [rows of places * out_width, window * window * channels]

  friend bool operator==(const Unfold&, const Unfold&) = default;
};

}  // namespace qianyi
