// The case tables of rows, norms, activations and LoRA, on CUDA devices against the CPU's
// reference.
#include <numeric>

#include "tests/kernels/cases.h"
#include "tests/kernels/cuda/mirror.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

TEST(CudaRowsTest, GatherIsTheUnpackedRow) {
  for (const Backend* device : Devices()) {
    for (PackedFormat format : kFormats) {
      LinearProblem problem({1, 50, 330}, format);
      const PackedRows table{problem.weight.data(), format, 50, 330};
      std::vector<float> all(50 * 330);
      UnpackRows(table, all.data());
      const int32_t sources[] = {49, 0, 17, 17}, targets[] = {2, 0, 4, 1};
      Matrix out(5, 330, 1);
      std::vector<float> expected = out.Dense();
      for (int i = 0; i < 4; ++i) {
        std::copy_n(all.begin() + sources[i] * 330, 330, expected.begin() + targets[i] * 330);
      }
      Mirror mirror(*device);
      device->gather({mirror.In(table), mirror.In(sources, 4), mirror.In(targets, 4), 4,
                      mirror.InOut(out.view())},
                     mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(out.Intact());
      EXPECT_TRUE(SameBits(out.Dense(), expected)) << FormatName(format);
    }
  }
}

TEST(CudaRowsTest, AddAndCopyRows) {
  const std::vector<int32_t> ids = {3, -1, 0, 6, 6}, copied = {6, 0, 0};
  for (const Backend* device : Devices()) {
    for (int64_t cols : {1, 15, 257, 513}) {
      const Matrix table(7, cols, 1);
      Matrix x(5, cols, 2), y(3, cols, 3), expected_x(5, cols, 2), expected_y(3, cols, 3);
      ScopedStream stream(Reference(), 1);
      Reference().add_rows({table.view(), ids.data(), expected_x.view()}, stream);
      Reference().copy_rows({table.view(), copied.data(), expected_y.view()}, stream);
      Reference().add_rows({expected_y.view(), nullptr, expected_y.view()}, stream);
      Mirror mirror(*device);
      device->add_rows({mirror.In(table.view()), mirror.In(ids.data(), 5), mirror.InOut(x.view())},
                       mirror.stream());
      device->copy_rows(
          {mirror.In(table.view()), mirror.In(copied.data(), 3), mirror.InOut(y.view())},
          mirror.stream());
      device->add_rows({mirror.In(y.view()), nullptr, mirror.In(y.view())}, mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(x.Intact() && y.Intact());
      EXPECT_TRUE(SameBits(x.Dense(), expected_x.Dense()));
      EXPECT_TRUE(SameBits(y.Dense(), expected_y.Dense()));
    }
  }
}

TEST(CudaRowsTest, Rope) {
  for (const Backend* device : Devices()) {
    for (const RopeCase& c : kRopeCases) {
      for (RopePairs pairs : {RopePairs::kInterleaved, RopePairs::kHalfSplit}) {
        const std::vector<float> cos_sin = RandomValues(5 * c.dims, 9);
        Matrix x(5, c.heads * c.head_dim, 1), expected(5, c.heads * c.head_dim, 1);
        ScopedStream stream(Reference(), 1);
        Rope args{expected.view(), cos_sin.data(), c.heads, c.head_dim, c.begin, c.dims, pairs};
        Reference().rope(args, stream);
        Mirror mirror(*device);
        args.x = mirror.InOut(x.view());
        args.cos_sin = mirror.In(cos_sin.data(), 5 * c.dims);
        device->rope(args, mirror.stream());
        mirror.Finish();
        EXPECT_TRUE(x.Intact());
        EXPECT_TRUE(SameBits(x.Dense(), expected.Dense()));
      }
    }
  }
}

TEST(CudaRowsTest, KvWrite) {
  const int64_t slots[] = {5, 39, 16};
  for (const Backend* device : Devices()) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
      const AttentionCase shape{2, 2, 17, 9, dtype, {40}, {1}};
      AttentionProblem problem(shape), expected(shape);
      Matrix k(3, 34, 5), v(3, 18, 6);
      k.view().f32(1)[3] = 6e4f;
      k.view().f32(2)[4] = 1e-6f;
      ScopedStream stream(Reference(), 1);
      Reference().kv_write({k.view(), v.view(), slots, expected.layer}, stream);
      Mirror mirror(*device);
      KvLayer layer = problem.layer;
      layer.pages = mirror.InOut(problem.cache.data(), problem.cache.size());
      device->kv_write({mirror.In(k.view()), mirror.In(v.view()), mirror.In(slots, 3), layer},
                       mirror.stream());
      mirror.Finish();
      EXPECT_EQ(std::memcmp(problem.cache.data(), expected.cache.data(), problem.cache.size()), 0);
    }
  }
}

TEST(CudaRowsTest, QuantizeGivesTheBitsOfTheCpu) {
  for (const Backend* device : Devices()) {
    for (int64_t cols : {1, 15, 33, 64, 511, 512, 513, 1100}) {
      Matrix x(6, cols, 3);
      for (int64_t c = 0; c < cols; ++c) {
        x.view().f32(1)[c] = 0.0f;
        x.view().f32(2)[c] *= 1e-38f;
        x.view().f32(3)[c] *= 1e37f;
      }
      x.view().f32(4)[cols / 2] = NAN;
      x.view().f32(5)[cols - 1] = -INFINITY;
      QuantizedStorage expected(6, cols), found(6, cols);
      ScopedStream stream(Reference(), 1);
      Reference().quantize({x.view(), expected.view()}, stream);
      Mirror mirror(*device);
      device->quantize({mirror.In(x.view()), mirror.InOut(found.view())}, mirror.stream());
      mirror.Finish();
      const QuantizedRows a = expected.view(), b = found.view();
      EXPECT_EQ(std::memcmp(a.values, b.values, 6 * a.padded_cols()), 0) << cols;
      EXPECT_EQ(std::memcmp(a.sums, b.sums, 6 * a.padded_cols() / 8), 0) << cols;
      EXPECT_TRUE(
          SameBits({a.scales, a.scales + 6 * a.slices()}, {b.scales, b.scales + 6 * b.slices()}))
          << cols;
    }
  }
}

// Both norms of both rows: within rounding of the CPU's, and a row alone like a row among others.
template <typename Norm>
void CheckNorm(const Norm& norm) {
  for (const Backend* device : Devices()) {
    for (const NormCase& c : kNormCases) {
      const Matrix x(c.tokens, c.cols, 1);
      Matrix expected(c.tokens, c.cols, 2), together(c.tokens, c.cols, 2);
      Matrix apart(c.tokens, c.cols, 1);
      ScopedStream stream(Reference(), 1);
      const std::vector<float> weight = RandomValues(c.cols, 3), bias = RandomValues(c.cols, 4);
      norm(Reference(), stream, weight.data(), bias.data(), x.view(), expected.view());
      Mirror mirror(*device);
      const float* w = mirror.In(weight.data(), c.cols);
      const float* b = mirror.In(bias.data(), c.cols);
      norm(*device, mirror.stream(), w, b, mirror.In(x.view()), mirror.InOut(together.view()));
      const Tensor in_place = mirror.InOut(apart.view());
      for (int64_t t = 0; t < c.tokens; ++t) {
        norm(*device, mirror.stream(), w, b, in_place.Rows(t, 1), in_place.Rows(t, 1));
      }
      mirror.Finish();
      EXPECT_TRUE(together.Intact() && apart.Intact());
      EXPECT_TRUE(Near(together.Dense(), Doubles(expected.Dense()), 1e-5)) << c.cols;
      EXPECT_TRUE(SameBits(apart.Dense(), together.Dense())) << c.cols;
    }
  }
}

TEST(CudaRowsTest, LayerNorm) {
  CheckNorm([](const Backend& backend, Stream stream, const float* weight, const float* bias,
               Tensor x, Tensor out) {
    backend.layer_norm({x, weight, bias, 1e-5f, out}, stream);
  });
}

TEST(CudaRowsTest, LayerNormOverTheLargest) {
  CheckNorm([](const Backend& backend, Stream stream, const float* weight, const float* bias,
               Tensor x, Tensor out) {
    backend.layer_norm(
        {.x = x, .weight = weight, .bias = bias, .epsilon = 1e-1f, .out = out, .max_scale = 8.0f},
        stream);
  });
}

TEST(CudaRowsTest, RmsNorm) {
  CheckNorm([](const Backend& backend, Stream stream, const float* weight, const float*, Tensor x,
               Tensor out) {
    backend.rms_norm({x, weight, 1e-5f, out}, stream);
  });
}

TEST(CudaRowsTest, Activations) {
  for (const Backend* device : Devices()) {
    for (Activation kind :
         {Activation::kGeluTanh, Activation::kGeluErf, Activation::kSilu, Activation::kRelu}) {
      for (const auto& [tokens, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 511}, {2, 900}}) {
        Matrix x(tokens, cols, 1), out(tokens, cols, 3);
        const Matrix value(tokens, cols, 2);
        const float specials[] = {0.0f, -0.0f, 1e-40f, 90.0f, -90.0f, 1e30f, -1e30f, NAN};
        for (int64_t i = 0; i < 8 && i < cols; ++i) x.view().f32()[i] = specials[i];
        Matrix plain = x, gated = out;
        ScopedStream stream(Reference(), 1);
        Reference().gated_activate({kind, plain.view(), value.view(), gated.view()}, stream);
        Reference().activate({kind, plain.view(), plain.view()}, stream);
        Mirror mirror(*device);
        const Tensor in_place = mirror.InOut(x.view());
        device->gated_activate({kind, in_place, mirror.In(value.view()), mirror.InOut(out.view())},
                               mirror.stream());
        device->activate({kind, in_place, in_place}, mirror.stream());
        mirror.Finish();
        EXPECT_TRUE(x.Intact() && out.Intact());
        const std::vector<float> a = x.Dense(), b = plain.Dense(), c = out.Dense(),
                                 d = gated.Dense();
        for (size_t i = 0; i < a.size(); ++i) {
          if (std::isnan(b[i])) {
            EXPECT_TRUE(std::isnan(a[i]) && std::isnan(c[i]));
            continue;
          }
          EXPECT_NEAR(a[i], b[i], 1e-6 * std::max(1.0f, std::fabs(b[i]))) << i;
          EXPECT_NEAR(c[i], d[i], 5e-6 * std::max(1.0f, std::fabs(d[i]))) << i;
        }
      }
    }
  }
}

TEST(CudaRowsTest, Lora) {
  for (const Backend* device : Devices()) {
    for (const LoraCase& shape : LoraCases()) {
      SCOPED_TRACE(shape.cols);
      const Matrix x(shape.tokens, shape.cols, 1);
      Matrix expected(shape.tokens, shape.rows, 3), out(shape.tokens, shape.rows, 3);
      std::vector<std::vector<float>> a, b, down;
      std::vector<LoraItem> items;
      for (const LoraPart& part : shape.parts) {
        a.push_back(RandomValues(part.rank * shape.cols, 10 + 2 * a.size()));
        b.push_back(RandomValues(part.rank * part.rows, 11 + 2 * b.size()));
        down.emplace_back(part.tokens.size() * part.rank + 1, 12345.0f);
      }
      for (size_t i = 0; i < shape.parts.size(); ++i) {
        const LoraPart& part = shape.parts[i];
        items.push_back(
            {{a[i].data(), b[i].data(), part.rank, 0.75f * (1 + i), part.row_begin, part.rows},
             part.tokens.data(),
             static_cast<int64_t>(part.tokens.size()),
             down[i].data()});
      }
      const int64_t count = static_cast<int64_t>(items.size());
      ScopedStream stream(Reference(), 1);
      Reference().lora({x.view(), items.data(), count, expected.view()}, stream);
      Mirror mirror(*device);
      for (size_t i = 0; i < items.size(); ++i) {
        items[i].weights.a = mirror.In(a[i].data(), a[i].size());
        items[i].weights.b = mirror.In(b[i].data(), b[i].size());
        items[i].tokens = mirror.In(shape.parts[i].tokens.data(), items[i].count);
        items[i].down = mirror.InOut(down[i].data(), down[i].size());
      }
      device->lora(
          {mirror.In(x.view()), mirror.In(items.data(), count), count, mirror.InOut(out.view())},
          mirror.stream());
      mirror.Finish();
      EXPECT_TRUE(out.Intact());
      for (const std::vector<float>& scratch : down) EXPECT_EQ(scratch.back(), 12345.0f);
      EXPECT_TRUE(Near(out.Dense(), Doubles(expected.Dense()),
                       2e-5 * static_cast<double>(shape.cols + 64)));
    }
  }
}

}  // namespace
}  // namespace qianyi::testing
