// What kernel tests and benchmarks share: fixed pseudo-random data, matrices that start
// off alignment and have gaps between rows, and the problems that the cases describe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace qianyi::testing {

// Values in about -3..3 (a sum of uniforms), the same on every machine.
std::vector<float> RandomValues(int64_t count, uint64_t seed);
// In [0, limit).
uint64_t RandomIndex(uint64_t seed, uint64_t index, uint64_t limit);

// Zeroed, 64-byte aligned.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes) : lines_((bytes + 63) / 64), size_(bytes) {}
  std::byte* data() const { return reinterpret_cast<std::byte*>(lines_.data()); }
  size_t size() const { return size_; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64] = {};
  };
  mutable std::vector<Line> lines_;
  size_t size_;
};

// A matrix that begins 4 bytes off alignment with 3 elements between rows; both hold a
// sentinel that Intact() checks.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, uint64_t seed);
  Tensor view() const;
  bool Intact() const;
  std::vector<float> Dense() const;

 private:
  int64_t rows_, cols_;
  mutable std::vector<float> storage_;
};

// A stream for the length of a scope.
class ScopedStream {
 public:
  ScopedStream(const Backend& backend, int threads)
      : backend_(backend), stream_(backend.create_stream(threads)) {}
  ~ScopedStream() { backend_.destroy_stream(stream_); }
  ScopedStream(const ScopedStream&) = delete;
  ScopedStream& operator=(const ScopedStream&) = delete;
  operator Stream() const { return stream_; }

 private:
  const Backend& backend_;
  Stream stream_;
};

// Storage for quantized activations.
class QuantizedStorage {
 public:
  QuantizedStorage(int64_t rows, int64_t cols);
  QuantizedRows view() const { return view_; }

 private:
  AlignedBytes values_, scales_, sums_;
  QuantizedRows view_;
};

enum class Residual { kNone, kSeparate, kInPlace };
struct LinearCase {
  int64_t tokens, rows, cols;
  bool bias = false;
  Residual residual = Residual::kNone;
};
inline constexpr LinearCase kLinearCases[] = {
    {1, 1, 1},
    {1, 16, 64, true},
    {2, 15, 15, true, Residual::kSeparate},
    {3, 17, 33, false, Residual::kInPlace},
    {5, 33, 511, true, Residual::kInPlace},
    {7, 40, 512, true},
    {8, 31, 513, false, Residual::kSeparate},
    {16, 48, 95, true, Residual::kSeparate},
    {17, 300, 1030, true, Residual::kInPlace},
    {35, 129, 600, false},
    {300, 21, 577, true},
};
inline constexpr PackedFormat kFormats[] = {
    {DType::kF32, 0}, {DType::kF16, 0}, {DType::kBF16, 0}, {DType::kI8, 0},
    {DType::kI4, 0},  {DType::kI4, 32}, {DType::kI4, 64},  {DType::kI4, 128},
};
std::string FormatName(PackedFormat format);

// A linear layer: y = x Wᵀ + bias + residual_scale · residual.
struct LinearProblem {
  LinearProblem(const LinearCase& shape, PackedFormat format);

  // Fields point into this object; `out` is the residual when it is in place.
  Linear Args(const Matrix& out);
  // Quantizes on `backend` where the format wants it, and multiplies.
  std::vector<float> Run(const Backend& backend, int threads);
  // The tokens [begin, begin + count) alone.
  std::vector<float> RunTokens(const Backend& backend, int threads, int64_t begin, int64_t count);

  LinearCase shape;
  PackedFormat format;
  Matrix x, residual;
  std::vector<float> bias;
  AlignedBytes weight;
  PackedRows apart;  // the same weight in several blocks, where a test has made them
};

// Attention over sequences of a shared cache. Every sequence has its own page table; the
// tokens of a sequence see more and more slots.
struct AttentionCase {
  int64_t heads, kv_heads, key_dim, value_dim;
  DType dtype;
  std::vector<int> lengths;  // slots of each sequence
  std::vector<int> tokens;   // query tokens of each: the last ones of the sequence
  bool values_in_keys = false;
};
std::vector<AttentionCase> AttentionCases();
std::string NameOf(const AttentionCase& shape);
// Dimension `d` of a head's key or value, as attention is to take it.
double CacheElement(const KvLayer& layer, int32_t page, int64_t slot, int64_t head, int64_t d,
                    bool value);

struct AttentionProblem {
  explicit AttentionProblem(const AttentionCase& shape);
  std::vector<float> Run(const Backend& backend, int threads);
  std::vector<float> RunToken(const Backend& backend, int64_t token);
  Attention Args(int64_t begin, int64_t count, Tensor out) const;

  AttentionCase shape;
  int64_t tokens = 0;
  KvLayer layer;
  AlignedBytes cache;
  Matrix q;
  std::vector<std::vector<int32_t>> tables;
  std::vector<const int32_t*> pages;  // [tokens]
  std::vector<int32_t> visible;       // [tokens]
};

struct NormCase {
  int64_t tokens, cols;
};
inline constexpr NormCase kNormCases[] = {{1, 1},  {1, 15},  {3, 16},   {2, 17},
                                          {5, 33}, {9, 511}, {17, 513}, {4, 4096}};

// Low-rank additions of `rank` to columns [row_begin, row_begin + rows) of some tokens.
struct LoraPart {
  int64_t rank, row_begin, rows;
  std::vector<int32_t> tokens;
};
struct LoraCase {
  int64_t tokens, cols, rows;
  std::vector<LoraPart> parts;
};
std::vector<LoraCase> LoraCases();

struct RopeCase {
  int64_t heads, head_dim, begin, dims;
};
inline constexpr RopeCase kRopeCases[] = {
    {1, 2, 0, 2}, {3, 80, 16, 40}, {2, 128, 0, 128}, {4, 65, 1, 62}};

}  // namespace qianyi::testing
