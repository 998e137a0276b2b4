// Kernels that move, rotate and quantize rows.
#include <algorithm>
#include <bit>
#include <limits>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

template <typename Body>
void ForEachVariant(const Body& body) {
  for (int i = 0; i < CpuVariants().count; ++i) {
    for (int threads : {1, 2}) {
      SCOPED_TRACE(CpuVariants().items[i]->variant);
      ScopedStream stream(*CpuVariants().items[i], threads);
      body(*CpuVariants().items[i], stream);
    }
  }
}

TEST(GatherTest, IsTheUnpackedRow) {
  for (PackedFormat format : kFormats) {
    LinearProblem problem({1, 50, 130}, format);
    const PackedRows table{problem.weight.data(), format, 50, 130};
    std::vector<float> all(50 * 130);
    UnpackRows(table, all.data());
    const int32_t sources[] = {49, 0, 17, 17}, targets[] = {2, 0, 4, 1};
    ForEachVariant([&](const Backend& backend, Stream stream) {
      Matrix out(5, 130, 1);
      const std::vector<float> before = out.Dense();
      backend.gather({table, sources, targets, 4, out.view()}, stream);
      EXPECT_TRUE(out.Intact());
      for (int i = 0; i < 4; ++i) {
        EXPECT_TRUE(std::equal(out.view().f32(targets[i]), out.view().f32(targets[i]) + 130,
                               all.begin() + sources[i] * 130))
            << FormatName(format);
      }
      EXPECT_TRUE(std::equal(before.begin() + 3 * 130, before.begin() + 4 * 130, out.view().f32(3)))
          << "a row that is no target";
    });
  }
}

TEST(AddRowsTest, AddsWhereTheIdIsNotNegative) {
  for (int64_t cols : {1, 15, 17, 513}) {
    const Matrix table(7, cols, 1);
    const std::vector<int32_t> ids = {3, -1, 0, 6, 6};
    const std::vector<float> before = Matrix(5, cols, 2).Dense();
    ForEachVariant([&](const Backend& backend, Stream stream) {
      for (const bool listed : {true, false}) {  // without a list, row by row
        Matrix x(5, cols, 2);
        backend.add_rows({table.view(), listed ? ids.data() : nullptr, x.view()}, stream);
        EXPECT_TRUE(x.Intact());
        for (int64_t t = 0; t < 5; ++t) {
          const int64_t row = listed ? ids[t] : t;
          for (int64_t c = 0; c < cols; ++c) {
            const float added = row < 0 ? 0.0f : table.view().f32(row)[c];
            EXPECT_EQ(x.view().f32(t)[c], before[t * cols + c] + added);
          }
        }
      }
    });
  }
}

TEST(CopyRowsTest, Copies) {
  const Matrix x(9, 33, 1);
  const std::vector<int32_t> ids = {8, 0, 0, 5};
  ForEachVariant([&](const Backend& backend, Stream stream) {
    for (const bool listed : {true, false}) {  // without a list, row by row
      Matrix out(4, 33, 2);
      backend.copy_rows({x.view(), listed ? ids.data() : nullptr, out.view()}, stream);
      EXPECT_TRUE(out.Intact());
      for (int64_t i = 0; i < 4; ++i) {
        const float* from = x.view().f32(listed ? ids[i] : i);
        EXPECT_TRUE(std::equal(out.view().f32(i), out.view().f32(i) + 33, from));
      }
    }
  });
}

TEST(RopeTest, RotatesPairs) {
  for (const RopeCase& c : kRopeCases) {
    for (RopePairs pairs : {RopePairs::kInterleaved, RopePairs::kHalfSplit}) {
      constexpr int64_t kTokens = 5;
      std::vector<float> cos_sin;
      for (int64_t i = 0; i < kTokens * c.dims / 2; ++i) {
        cos_sin.push_back(static_cast<float>(std::cos(0.37 * i)));
        cos_sin.push_back(static_cast<float>(std::sin(0.37 * i)));
      }
      std::vector<float> first;
      ForEachVariant([&](const Backend& backend, Stream stream) {
        Matrix x(kTokens, c.heads * c.head_dim, 1);
        backend.rope({x.view(), cos_sin.data(), c.heads, c.head_dim, c.begin, c.dims, pairs},
                     stream);
        EXPECT_TRUE(x.Intact());
        if (first.empty()) first = x.Dense();
        EXPECT_TRUE(SameBits(x.Dense(), first));
      });
      std::vector<double> expected;
      const std::vector<float> before = Matrix(kTokens, c.heads * c.head_dim, 1).Dense();
      expected.assign(before.begin(), before.end());
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t h = 0; h < c.heads; ++h) {
          double* x = &expected[(t * c.heads + h) * c.head_dim + c.begin];
          for (int64_t i = 0; i < c.dims / 2; ++i) {
            double& a = pairs == RopePairs::kInterleaved ? x[2 * i] : x[i];
            double& b = pairs == RopePairs::kInterleaved ? x[2 * i + 1] : x[i + c.dims / 2];
            const double cosine = cos_sin[t * c.dims + 2 * i];
            const double sine = cos_sin[t * c.dims + 2 * i + 1];
            const double rotated = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = rotated;
          }
        }
      }
      EXPECT_TRUE(Near(first, expected, 1e-6));
    }
  }
}

TEST(KvWriteTest, StoresAtTheSlots) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const AttentionCase shape{2, 2, 17, 9, dtype, {40}, {1}};
    const int64_t slots[] = {5, 39, 16};
    ForEachVariant([&](const Backend& backend, Stream stream) {
      AttentionProblem problem(shape);
      const Matrix k(3, 34, 5), v(3, 18, 6);
      backend.kv_write({k.view(), v.view(), slots, problem.layer}, stream);
      for (int i = 0; i < 3; ++i) {
        const std::byte* page =
            problem.layer.pages + slots[i] / kPageTokens * problem.layer.page_bytes;
        const int64_t offset = slots[i] % kPageTokens;
        for (int64_t c = 0; c < 34 + 18; ++c) {
          const float given = c < 34 ? k.view().f32(i)[c] : v.view().f32(i)[c - 34];
          const int64_t at = c < 34 ? offset * 34 + c : kPageTokens * 34 + offset * 18 + c - 34;
          if (dtype == DType::kF32) {
            EXPECT_EQ(reinterpret_cast<const float*>(page)[at], given);
          } else {
            EXPECT_EQ(reinterpret_cast<const uint16_t*>(page)[at],
                      dtype == DType::kBF16 ? FloatToBFloat16(given) : FloatToHalf(given));
          }
        }
      }
    });
  }
}

// Ties, what rounds up to infinity, the smallest, and what is no number, in full vectors and rests.
TEST(KvWriteTest, SixteenBitsAreRoundedToNearestEven) {
  std::vector<float> hard;
  for (const uint32_t bits :
       {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu, 0x7f7fffffu, 0x7f7f7fffu, 0x00000001u,
        0x00008000u, 0x00008001u, 0x7f800000u, 0x7f800001u, 0x7fc00000u, 0x00000000u, 0x477ff000u,
        0x477fefffu, 0x33000000u, 0x33000001u, 0x38800000u, 0x387fffffu}) {
    hard.push_back(std::bit_cast<float>(bits));
    hard.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    const int64_t dim = static_cast<int64_t>(hard.size());
    const AttentionCase shape{1, 1, dim, 1, dtype, {16}, {1}};
    ForEachVariant([&](const Backend& backend, Stream stream) {
      AttentionProblem problem(shape);
      const int64_t slot = 3;
      float value = 1.0f;
      backend.kv_write({F32(hard.data(), 1, dim), F32(&value, 1, 1), &slot, problem.layer}, stream);
      const auto* stored = reinterpret_cast<const uint16_t*>(problem.layer.pages) + slot * dim;
      for (int64_t i = 0; i < dim; ++i) {
        EXPECT_EQ(stored[i], dtype == DType::kF16 ? FloatToHalf(hard[i]) : FloatToBFloat16(hard[i]))
            << hard[i] << " " << backend.variant;
      }
    });
  }
}

// The nearest multiples of the largest over 127, by head.
TEST(KvWriteTest, IntegersHaveAScaleForEachSlotAndHead) {
  const AttentionCase shape{3, 3, 17, 9, DType::kI8, {40}, {1}};
  const int64_t slots[] = {5, 39, 16};
  Matrix k(3, 51, 5), v(3, 27, 6);
  std::fill_n(k.view().f32(1) + 17, 17, 0.0f);
  v.view().f32(2)[3] = NAN;  // of the first head
  v.view().f32(1)[26] = -1e30f;
  std::vector<std::vector<std::byte>> written;
  ForEachVariant([&](const Backend& backend, Stream stream) {
    AttentionProblem problem(shape);
    backend.kv_write({k.view(), v.view(), slots, problem.layer}, stream);
    written.emplace_back(problem.cache.data(), problem.cache.data() + problem.cache.size());
    for (int i = 0; i < 3; ++i) {
      for (const bool value : {false, true}) {
        const int64_t dim = value ? 9 : 17;
        for (int64_t c = 0; c < 3 * dim; ++c) {
          const float* head = (value ? v : k).view().f32(i) + c / dim * dim;
          float most = 0.0f;
          for (int64_t d = 0; d < dim; ++d) most = std::max(most, std::abs(head[d]));
          const double found =
              CacheElement(problem.layer, static_cast<int32_t>(slots[i] / kPageTokens),
                           slots[i] % kPageTokens, c / dim, c % dim, value);
          if (value && i == 2 && c < 9) {
            EXPECT_TRUE(std::isnan(found)) << c;
          } else {
            EXPECT_NEAR(found, head[c % dim], 0.5001 * most / 127) << i << " " << c;
          }
        }
      }
    }
  });
  for (const auto& one : written) EXPECT_EQ(one, written.front());
}

// The scalar reference, for the other variants to equal.
struct Quantized {
  explicit Quantized(const Backend& backend, Stream stream, Tensor x)
      : storage(x.rows, x.cols), view(storage.view()) {
    backend.quantize({x, view}, stream);
  }
  bool operator==(const Quantized& other) const {
    const int64_t padded = view.padded_cols();
    return std::memcmp(view.values, other.view.values, view.rows * padded) == 0 &&
           std::memcmp(view.sums, other.view.sums, view.rows * padded / 32 * 4) == 0 &&
           SameBits({view.scales, view.scales + view.rows * view.slices()},
                    {other.view.scales, other.view.scales + view.rows * view.slices()});
  }
  QuantizedStorage storage;
  QuantizedRows view;
};

TEST(QuantizeTest, IsTheNearestStepOfTheLargest) {
  for (int64_t cols : {1, 15, 33, 64, 511, 512, 513, 1100}) {
    const Matrix x(6, cols, 3);
    const float tiny = 1e-38f;
    for (int64_t c = 0; c < cols; ++c) x.view().f32(1)[c] = 0.0f;
    for (int64_t c = 0; c < cols; ++c) x.view().f32(2)[c] *= tiny;
    for (int64_t c = 0; c < cols; ++c) x.view().f32(3)[c] *= 1e37f;
    ScopedStream first(*CpuVariants().items[0], 1);
    const Quantized expected(*CpuVariants().items[0], first, x.view());
    const QuantizedRows& q = expected.view;
    for (int64_t t = 0; t < 6; ++t) {
      for (int64_t c = 0; c < q.padded_cols(); ++c) {
        const int value = q.values[t * q.padded_cols() + c];
        if (c >= cols || t == 1 || t == 2) {
          EXPECT_EQ(value, 0);
          continue;
        }
        const double scale = q.scales[t * q.slices() + c / kSliceCols];
        EXPECT_LE(std::fabs(x.view().f32(t)[c] - value * scale), 0.5001 * scale);
        EXPECT_LE(std::abs(value), 127);
      }
      for (int64_t i = 0; i < q.padded_cols() / 32; ++i) {
        int sum = 0;
        for (int64_t c = 0; c < 32; ++c) sum += q.values[t * q.padded_cols() + i * 32 + c];
        EXPECT_EQ(q.sums[t * q.padded_cols() / 32 + i], sum);
      }
    }
    ForEachVariant([&](const Backend& backend, Stream stream) {
      EXPECT_TRUE(Quantized(backend, stream, x.view()) == expected) << cols;
    });
  }
}

TEST(QuantizeTest, WhatIsNotFiniteIsMarked) {
  for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    const Matrix x(1, 1030, 3);
    x.view().f32()[600] = bad;
    ForEachVariant([&](const Backend& backend, Stream stream) {
      const Quantized q(backend, stream, x.view());
      EXPECT_TRUE(std::isfinite(q.view.scales[0]));
      EXPECT_TRUE(std::isnan(q.view.scales[1]));
      EXPECT_TRUE(std::isfinite(q.view.scales[2]));
      for (int64_t c = 512; c < 1024; ++c) EXPECT_EQ(q.view.values[c], 0);
    });
  }
}

TEST(QuantizeTest, TiesGoToEven) {
  std::vector<float> x(64, 0.0f);
  x[0] = 127.0f;  // a scale of 1
  for (int i = 1; i < 64; ++i) x[i] = static_cast<float>(i) - 32.5f;
  ForEachVariant([&](const Backend& backend, Stream stream) {
    const Quantized q(backend, stream, F32(x.data(), 1, 64));
    for (int i = 1; i < 64; ++i) EXPECT_EQ(q.view.values[i], std::nearbyint(x[i])) << i;
  });
}

}  // namespace
}  // namespace qianyi::testing
