// Non-owning views that kernels take. This layer knows no model and no file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qianyi {

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kI4 };

// A row-major matrix of activations, states or a plain table. Element (r, c) is
// at data[r * stride + c]; `stride` counts elements and is >= cols.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  float* f32(int64_t row = 0) const { return static_cast<float*>(data) + row * stride; }
  // Rows [begin, begin + count) and columns [column, column + width) of an f32 matrix.
  Tensor Slice(int64_t begin, int64_t count, int64_t column, int64_t width) const {
    return {f32(begin) + column, dtype, count, width, stride};
  }
  Tensor Rows(int64_t begin, int64_t count) const { return Slice(begin, count, 0, cols); }
  Tensor Columns(int64_t column, int64_t width) const { return Slice(0, rows, column, width); }

  friend bool operator==(const Tensor&, const Tensor&) = default;
};

inline Tensor F32(float* data, int64_t rows, int64_t cols) {
  return {data, DType::kF32, rows, cols, cols};
}

}  // namespace qianyi
