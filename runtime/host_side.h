// What the host's processor computes of a step beside a device: experts, whose weights lie in RAM,
// and with the plan's kHostRows some rows of each matrix. Inputs come from the device and results
// go back. Without a device the host computes experts in the pass's own memory, and nothing moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "runtime/expert_buffers.h"
#include "runtime/model_spec.h"
#include "runtime/storage/weight_store.h"

namespace qianyi {

// A matrix and its bias, as indices of tensors in the store; bias -1: none.
struct Projection {
  int weight = -1;
  int bias = -1;
};

// The part of a product with a whole matrix that has the rows of `weight`, from `row_begin` on.
inline Linear RowsOf(Linear whole, const PackedRows& weight, int64_t row_begin) {
  whole.weight = weight;
  if (whole.bias != nullptr) whole.bias += row_begin;
  if (whole.residual.data != nullptr) {
    whole.residual = whole.residual.Columns(row_begin, weight.rows);
  }
  whole.out = whole.out.Columns(row_begin, weight.rows);
  return whole;
}

// Memory that is handed out piece by piece; with a null begin it only counts.
class Arena {
 public:
  explicit Arena(std::byte* begin) : begin_(begin) {}
  template <typename T>
  T* Take(int64_t count) {
    T* at = begin_ == nullptr ? nullptr : reinterpret_cast<T*>(begin_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* const begin_;
  uint64_t used_ = 0;
};

// Used by the engine's thread. Owns nothing: a pass has the memory and the streams.
class HostSide {
 public:
  // Host memory; a device copies from and to it.
  struct Buffers {
    float* wide = nullptr;      // [tokens, widest row]
    float* residual = nullptr;  // likewise
    float* rows = nullptr;      // likewise, of results
    float* moved = nullptr;   // [tokens, hidden_size]: a layer's input from a device, then its sum
    QuantizedRows quantized;  // of `tokens` rows
    ExpertBuffers experts;
  };
  // Takes what a step of `tokens` tokens needs beside a device.
  static void LayOut(const ModelSpec& spec, int64_t tokens, int64_t widest, Arena* arena,
                     Buffers* buffers);
  static void LayOutExperts(const ModelSpec& spec, int64_t tokens, Arena* arena,
                            ExpertBuffers* experts);

  struct Device {
    const Backend* backend = nullptr;  // null: there is none
    Stream stream;
    Event asked;
    float* landing = nullptr;  // [tokens, widest row], of the device
  };
  HostSide() = default;
  HostSide(WeightStore* store, Buffers buffers, const Backend* backend, Stream stream,
           Device device)
      : store_(store), buffers_(buffers), backend_(backend), stream_(stream), device_(device) {}

  const ExpertBuffers& experts() const { return buffers_.experts; }
  const Backend& backend() const { return *backend_; }
  Stream stream() const { return stream_; }
  // Null where `tensor` is -1.
  const float* constant(int tensor) const {
    return tensor < 0 ? nullptr : store_->Constant(tensor);
  }
  Tensor wide(int64_t rows, int64_t cols) const { return F32(buffers_.wide, rows, cols); }

  // Rows of the pass, without gaps, where the host finds them: themselves, or from a device at
  // `to`, once they are computed.
  Tensor Fetch(Tensor x, float* to) const;
  // A layer's input, from Begin to the Add that ends it: Fetch once, Fetched from there on.
  Tensor FetchInput(Tensor x) const { return Fetch(x, buffers_.moved); }
  Tensor Fetched(Tensor x) const {
    return device_.backend == nullptr ? x : F32(buffers_.moved, x.rows, x.cols);
  }
  // out = x Wᵀ + bias, both in host memory, block by block as they arrive. No adapter adds to it.
  absl::Status Linear(Projection projection, Tensor x, Tensor out);
  // sum.out, which is the pass's, += the sum; all else is the host's.
  void Add(Combine sum) const;

  // Rows of a matrix product on the device (Pass::Linear), whose own part is enqueued between the
  // two. Asks for what it reads, and
  void AskForRows(const qianyi::Linear& whole) const;
  // multiplies with `blocks` of the matrix where they lie, and sends the columns to whole.out.
  absl::Status MultiplyRows(Projection projection, std::span<const int> blocks,
                            const qianyi::Linear& whole);

 private:
  WeightStore* store_ = nullptr;
  Buffers buffers_;
  const Backend* backend_ = nullptr;
  Stream stream_;
  Device device_;
};

}  // namespace qianyi
