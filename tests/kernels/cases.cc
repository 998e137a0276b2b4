#include "tests/kernels/cases.h"

#include <algorithm>
#include <numeric>

namespace qianyi::testing {
namespace {

constexpr float kSentinel = -12345.5f;
constexpr int64_t kOffset = 1, kGap = 3;  // elements

// SplitMix64 (Steele, Lea & Flood 2014): a counter in, well-mixed bits out.
uint64_t Mix(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

int64_t PageCount(int64_t slots) { return (slots + kPageTokens - 1) / kPageTokens; }

}  // namespace

uint64_t RandomIndex(uint64_t seed, uint64_t index, uint64_t limit) {
  return Mix(seed * 0x100000001b3u + index + 1) % limit;
}

std::vector<float> RandomValues(int64_t count, uint64_t seed) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = Mix((seed << 32) + i + 1);
    float sum = 0.0f;
    for (int part = 0; part < 4; ++part) {
      sum += static_cast<float>(bits >> (16 * part) & 0xffff) * 0x1p-16f - 0.5f;
    }
    values[i] = sum * 1.7320508f;  // variance 1
  }
  return values;
}

Matrix::Matrix(int64_t rows, int64_t cols, uint64_t seed)
    : rows_(rows), cols_(cols), storage_(kOffset + rows * (cols + kGap) + 16, kSentinel) {
  const std::vector<float> values = RandomValues(rows * cols, seed);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * cols, cols, view().f32(r));
  }
}

Tensor Matrix::view() const {
  return {storage_.data() + kOffset, DType::kF32, rows_, cols_, cols_ + kGap};
}

bool Matrix::Intact() const {
  for (int64_t i = 0; i < static_cast<int64_t>(storage_.size()); ++i) {
    const int64_t row = (i - kOffset) / (cols_ + kGap), col = (i - kOffset) % (cols_ + kGap);
    const bool inside = i >= kOffset && row < rows_ && col < cols_;
    if (!inside && storage_[i] != kSentinel) return false;
  }
  return true;
}

std::vector<float> Matrix::Dense() const {
  std::vector<float> dense;
  for (int64_t r = 0; r < rows_; ++r) {
    dense.insert(dense.end(), view().f32(r), view().f32(r) + cols_);
  }
  return dense;
}

QuantizedStorage::QuantizedStorage(int64_t rows, int64_t cols)
    : values_(rows * ((cols + 63) / 64 * 64)),
      scales_(rows * ((cols + kSliceCols - 1) / kSliceCols) * sizeof(float)),
      sums_(rows * ((cols + 63) / 64 * 2) * sizeof(int32_t)) {
  view_.values = reinterpret_cast<int8_t*>(values_.data());
  view_.scales = reinterpret_cast<float*>(scales_.data());
  view_.sums = reinterpret_cast<int32_t*>(sums_.data());
  view_.rows = rows;
  view_.cols = cols;
}

std::string FormatName(PackedFormat format) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "int8", "int4"};
  std::string name = kNames[static_cast<int>(format.dtype)];
  if (format.group > 0) name += "_g" + std::to_string(format.group);
  return name;
}

LinearProblem::LinearProblem(const LinearCase& c, PackedFormat f)
    : shape(c),
      format(f),
      x(c.tokens, c.cols, 1),
      residual(c.tokens, c.rows, 2),
      bias(RandomValues(c.rows, 3)),
      weight(PackedBytes(f, c.rows, c.cols)) {
  const std::vector<float> source = RandomValues(c.rows * c.cols, 4);
  PackRows(f, source.data(), c.rows, c.cols, c.cols, weight.data());
}

Linear LinearProblem::Args(const Matrix& out) {
  Linear args;
  args.x = x.view();
  args.weight = {weight.data(), format, shape.rows, shape.cols};
  if (apart.data != nullptr) args.weight = apart;
  args.bias = shape.bias ? bias.data() : nullptr;
  args.residual_scale = 0.75f;
  args.out = out.view();
  if (shape.residual == Residual::kSeparate) args.residual = residual.view();
  if (shape.residual == Residual::kInPlace) args.residual = args.out;
  return args;
}

std::vector<float> LinearProblem::Run(const Backend& backend, int threads) {
  return RunTokens(backend, threads, 0, shape.tokens);
}

std::vector<float> LinearProblem::RunTokens(const Backend& backend, int threads, int64_t begin,
                                            int64_t count) {
  ScopedStream stream(backend, threads);
  Matrix out = residual;  // what an in-place residual wants
  Linear args = Args(out);
  args.x = args.x.Rows(begin, count);
  args.out = args.out.Rows(begin, count);
  if (args.residual.data != nullptr) args.residual = args.residual.Rows(begin, count);
  QuantizedStorage quantized(count, shape.cols);
  if (format.integer()) {
    backend.quantize({args.x, quantized.view()}, stream);
    args.quantized = quantized.view();
    args.x = {};
  }
  backend.linear(args, stream);
  backend.synchronize(stream);
  if (!out.Intact()) return {};
  const std::vector<float> dense = out.Dense();
  return {dense.begin() + begin * shape.rows, dense.begin() + (begin + count) * shape.rows};
}

std::vector<AttentionCase> AttentionCases() {
  return {
      {1, 1, 16, 16, DType::kF32, {1}, {1}},
      {2, 2, 1, 1, DType::kF32, {5}, {5}},
      {4, 2, 15, 17, DType::kF16, {17, 3}, {3, 1}},
      {4, 4, 64, 64, DType::kF32, {40}, {40}},
      {6, 2, 80, 48, DType::kF16, {256, 257, 255}, {1, 2, 7}},
      {32, 2, 128, 128, DType::kF32, {300}, {5}},
      {32, 2, 128, 128, DType::kF16, {600, 31}, {1, 1}},
      {3, 1, 40, 24, DType::kF32, {1030}, {20}},
      // Blocks of rows in which a split begins for some and not for others.
      {3, 1, 24, 16, DType::kF32, {262}, {10}},
      {1, 1, 16, 16, DType::kF16, {530}, {40}},
      // Blocks of several kv heads: over splits, uneven ones, more heads than rows of a block.
      {8, 8, 40, 24, DType::kF16, {530, 31, 257}, {1, 1, 1}},
      {7, 7, 20, 20, DType::kF32, {300, 260}, {1, 2}},
      {40, 40, 16, 16, DType::kF32, {262}, {2}},
      // Latent attention: GLM-4.7-Flash's shape, and odd ones.
      {20, 1, 576, 512, DType::kF16, {300, 17}, {1, 3}, true},
      {20, 1, 576, 512, DType::kF32, {40}, {2}, true},
      {5, 1, 40, 32, DType::kF32, {270, 3}, {9, 1}, true},
      {3, 1, 23, 17, DType::kF16, {33}, {4}, true},
      {4, 2, 15, 17, DType::kBF16, {17, 3}, {3, 1}},
      {6, 2, 80, 48, DType::kBF16, {256, 257, 255}, {1, 2, 7}},
      {32, 2, 128, 128, DType::kBF16, {600, 31}, {1, 1}},
      {8, 8, 40, 24, DType::kBF16, {530, 31, 257}, {1, 1, 1}},
      {3, 1, 23, 17, DType::kBF16, {33}, {4}, true},
      // Integers with a scale for each slot and head, in all of these ways.
      {1, 1, 16, 16, DType::kI8, {1}, {1}},
      {4, 2, 15, 17, DType::kI8, {17, 3}, {3, 1}},
      {6, 2, 80, 48, DType::kI8, {256, 257, 255}, {1, 2, 7}},
      {32, 2, 128, 128, DType::kI8, {600, 31}, {1, 1}},
      {3, 1, 24, 16, DType::kI8, {262}, {10}},
      {8, 8, 40, 24, DType::kI8, {530, 31, 257}, {1, 1, 1}},
      {40, 40, 16, 16, DType::kI8, {262}, {2}},
      {20, 1, 576, 512, DType::kI8, {300, 17}, {1, 3}, true},
      {5, 1, 40, 32, DType::kI8, {270, 3}, {9, 1}, true},
  };
}

std::string NameOf(const AttentionCase& c) {
  std::string name;
  for (const int64_t size : {c.heads, c.kv_heads, c.key_dim, c.value_dim}) {
    name += std::to_string(size) + "_";
  }
  name += std::to_string(c.lengths[0]) + (c.values_in_keys ? "_latent" : "");
  constexpr const char* kDTypes[] = {"_f32", "_f16", "_bf16", "_i8"};
  return name + kDTypes[static_cast<int>(c.dtype)];
}

double CacheElement(const KvLayer& layer, int32_t page, int64_t slot, int64_t head, int64_t d,
                    bool value) {
  const bool own = value && !layer.values_in_keys;
  const int64_t cols = own ? layer.value_cols() : layer.key_cols();
  const int64_t at = (own ? kPageTokens * layer.key_cols() : 0) + slot * cols +
                     head * (own ? layer.value_dim : layer.key_dim) + d;
  KvLayer first = layer;
  first.pages += page * layer.page_bytes;
  if (layer.dtype == DType::kF32) return reinterpret_cast<const float*>(first.pages)[at];
  if (layer.dtype == DType::kF16) {
    return HalfToFloat(reinterpret_cast<const uint16_t*>(first.pages)[at]);
  }
  if (layer.dtype == DType::kBF16) {
    return BFloat16ToFloat(reinterpret_cast<const uint16_t*>(first.pages)[at]);
  }
  const float* scales = value ? first.value_scales() : first.key_scales();
  return double{scales[slot * layer.kv_heads + head]} *
         reinterpret_cast<const int8_t*>(first.pages)[at];
}

AttentionProblem::AttentionProblem(const AttentionCase& c)
    : shape(c),
      tokens(std::accumulate(c.tokens.begin(), c.tokens.end(), 0)),
      cache(0),
      q(tokens, c.heads * c.key_dim, 11) {
  layer.dtype = c.dtype;
  layer.kv_heads = c.kv_heads;
  layer.key_dim = c.key_dim;
  layer.value_dim = c.value_dim;
  layer.values_in_keys = c.values_in_keys;
  // A gap between pages, as where several layers share one.
  layer.page_bytes = layer.used_page_bytes() + 64;
  int64_t page_count = 0;
  for (int length : c.lengths) page_count += PageCount(length);
  cache = AlignedBytes(page_count * layer.page_bytes);
  layer.pages = cache.data();

  // Pages are handed out from the last to the first, so that none is where a contiguous
  // cache would have it.
  ScopedStream stream(Cpu(), 1);
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    tables.emplace_back();
    for (int64_t i = 0; i < PageCount(c.lengths[s]); ++i) {
      tables.back().push_back(static_cast<int32_t>(--page_count));
    }
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < c.lengths[s]; ++i) {
      slots.push_back(int64_t{tables[s][i / kPageTokens]} * kPageTokens + i % kPageTokens);
    }
    const Matrix k(c.lengths[s], c.kv_heads * c.key_dim, 20 + s);
    const Matrix v(c.lengths[s], c.kv_heads * c.value_dim, 40 + s);
    Cpu().kv_write({k.view(), v.view(), slots.data(), layer}, stream);
  }
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    for (int i = 0; i < c.tokens[s]; ++i) {
      pages.push_back(tables[s].data());
      visible.push_back(c.lengths[s] - c.tokens[s] + 1 + i);
    }
  }
}

Attention AttentionProblem::Args(int64_t begin, int64_t count, Tensor out) const {
  Attention args;
  args.q = q.view().Rows(begin, count);
  args.pages = pages.data() + begin;
  args.visible = visible.data() + begin;
  args.heads = shape.heads;
  args.scale = 0.25f;
  args.layer = layer;
  args.out = out;
  return args;
}

std::vector<float> AttentionProblem::Run(const Backend& backend, int threads) {
  ScopedStream stream(backend, threads);
  Matrix out(tokens, shape.heads * shape.value_dim, 5);
  backend.attention(Args(0, tokens, out.view()), stream);
  return out.Intact() ? out.Dense() : std::vector<float>{};
}

std::vector<float> AttentionProblem::RunToken(const Backend& backend, int64_t token) {
  ScopedStream stream(backend, 1);
  Matrix out(1, shape.heads * shape.value_dim, 5);
  backend.attention(Args(token, 1, out.view()), stream);
  return out.Intact() ? out.Dense() : std::vector<float>{};
}

std::vector<LoraCase> LoraCases() {
  return {
      {1, 1, 1, {{1, 0, 1, {0}}}},
      {1, 4096, 4608, {{8, 0, 4608, {0}}}},
      {3, 17, 40, {{3, 5, 17, {2, 0}}, {5, 22, 18, {0, 2}}}},
      {5, 96, 160, {{4, 0, 96, {1, 3}}, {4, 96, 32, {1, 3}}, {9, 0, 160, {0, 4}}}},
      {9, 33, 1030, {{17, 3, 1027, {8, 7, 6, 1}}, {2, 0, 1030, {0}}, {31, 0, 1, {2, 3}}}},
      {40, 130, 70, {{7, 0, 70, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 31, 32}}, {1, 9, 2, {39}}}},
      {2, 8, 8, {{4, 0, 8, {}}, {6, 1, 7, {1}}}},
  };
}

}  // namespace qianyi::testing
