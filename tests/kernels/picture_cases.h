// Problems of the kernels for pictures, for tests on every backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/cases.h"

namespace qianyi::testing {

struct UnfoldCase {
  int64_t height, width, channels, window, stride, offset_y, offset_x, first_row, rows, out_width;
};
// Convolutions 4x4/2 and 3x3, the halves of a transposed one, a band of rows, one pixel.
inline constexpr UnfoldCase kUnfoldCases[] = {
    {8, 8, 3, 4, 2, -1, -1, 0, 4, 4},  {5, 7, 6, 3, 1, -1, -1, 0, 5, 7},
    {4, 4, 17, 2, 1, -1, 0, 0, 4, 4},  {4, 4, 17, 2, 1, 0, -1, 1, 2, 4},
    {9, 3, 16, 3, 1, -1, -1, 4, 3, 3}, {1, 1, 5, 4, 2, -1, -1, 0, 1, 1},
};

inline Unfold UnfoldArgs(const UnfoldCase& c, Tensor picture, Tensor out) {
  return {.picture = picture,
          .height = c.height,
          .width = c.width,
          .window = c.window,
          .stride = c.stride,
          .offset_y = c.offset_y,
          .offset_x = c.offset_x,
          .out_width = c.out_width,
          .first_row = c.first_row,
          .out = out};
}

inline constexpr float kPivotBias = 1.25f;

// A list for each token of an attention case: some slots in an odd order, the first as pivots.
struct SparseProblem {
  explicit SparseProblem(const AttentionCase& shape) : attention(shape) {
    for (int64_t t = 0; t < attention.tokens; ++t) {
      const int64_t seen = attention.visible[t];
      const int64_t count = 1 + static_cast<int64_t>(RandomIndex(7, t, seen));
      const int64_t first = static_cast<int64_t>(RandomIndex(8, t, seen));
      for (int64_t i = 0; i < count; ++i) {
        slots.push_back(static_cast<int32_t>((first + 7 * i) % seen));
      }
      offsets.push_back(static_cast<int64_t>(slots.size()));
      pivots.push_back(static_cast<int32_t>(RandomIndex(9, t, count + 1)));
    }
  }
  std::vector<float> Run(const Backend& backend, int threads, int64_t begin, int64_t count) {
    ScopedStream stream(backend, threads);
    Matrix out(count, attention.shape.heads * attention.shape.value_dim, 5);
    backend.sparse_attention(Args(begin, count, out.view()), stream);
    return out.Intact() ? out.Dense() : std::vector<float>{};
  }
  SparseAttention Args(int64_t begin, int64_t count, Tensor out) const {
    return {.q = attention.q.view().Rows(begin, count),
            .pages = attention.pages.data() + begin,
            .slots = slots.data(),
            .offsets = offsets.data() + begin,
            .pivots = pivots.data() + begin,
            .pivot_bias = kPivotBias,
            .heads = attention.shape.heads,
            .scale = 0.25f,
            .layer = attention.layer,
            .out = out};
  }
  double Element(int64_t token, int32_t slot, int64_t head, int64_t d, bool value) const {
    return CacheElement(attention.layer, attention.pages[token][slot / kPageTokens],
                        slot % kPageTokens, head, d, value);
  }
  std::vector<double> Expected() const {
    const AttentionCase& c = attention.shape;
    std::vector<double> all;
    for (int64_t t = 0; t < attention.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t kv = h / (c.heads / c.kv_heads);
        std::vector<double> p, out(c.value_dim);
        for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
          double dot = 0;
          for (int64_t d = 0; d < c.key_dim; ++d) {
            dot += double{attention.q.view().f32(t)[h * c.key_dim + d]} *
                   Element(t, slots[i], kv, d, false);
          }
          p.push_back(0.25 * dot + (i - offsets[t] < pivots[t] ? kPivotBias : 0));
        }
        const double most = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& x : p) sum += x = std::exp(x - most);
        for (size_t i = 0; i < p.size(); ++i) {
          for (int64_t d = 0; d < c.value_dim; ++d) {
            out[d] += p[i] / sum * Element(t, slots[offsets[t] + i], kv, d, true);
          }
        }
        all.insert(all.end(), out.begin(), out.end());
      }
    }
    return all;
  }

  AttentionProblem attention;
  std::vector<int32_t> slots, pivots;
  std::vector<int64_t> offsets = {0};
};

}  // namespace qianyi::testing
