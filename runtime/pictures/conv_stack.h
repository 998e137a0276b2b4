// A stack of convolutions over one picture, through the matrix kernels.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/pictures/vqvae_config.h"
#include "runtime/storage/checkpoint.h"

namespace qianyi {

// Packed f32 weights [rows, cols] with a bias, in memory of the backend.
class ConvMatrix {
 public:
  // `weights` row-major; a bias for each row.
  static absl::StatusOr<ConvMatrix> Pack(std::span<const float> weights, int64_t rows, int64_t cols,
                                         std::span<const float> bias, const Backend& backend);
  ConvMatrix(ConvMatrix&& other) noexcept;
  ConvMatrix& operator=(ConvMatrix&&) = delete;
  ~ConvMatrix();

  const PackedRows& rows() const { return rows_; }
  uint64_t bytes() const { return bytes_; }
  // out = x Wᵀ + bias (+ residual).
  void Multiply(Tensor x, Tensor residual, Tensor out, Stream stream) const;

 private:
  explicit ConvMatrix(const Backend& backend) : backend_(&backend) {}
  const Backend* backend_;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  PackedRows rows_;
  const float* bias_ = nullptr;
};

// Immutable; Run is thread-safe as far as the stream is the caller's own. Works in bands of rows,
// so that the widest activations never exist whole: a block and the pointwise ones behind it are
// one.
class ConvStack {
 public:
  // NotFound or InvalidArgument name the tensor that is missing or has another shape.
  static absl::StatusOr<ConvStack> Load(std::vector<VqvaeBlock> blocks, const VqvaeConfig& config,
                                        const Checkpoint& checkpoint, const Backend& backend);

  uint64_t weight_bytes() const;
  // Bytes of `workspace` that a picture of this size needs.
  uint64_t WorkspaceBytes(int64_t height, int64_t width) const;
  // Of each block's output, for `verify`: then blocks run one by one.
  using Watcher = std::function<void(size_t block, Tensor pixels)>;
  using Pause = std::function<void()>;  // called between two bands
  // pixels [height * width, channels of the first block] → the result's pixels, in `workspace`; all
  // of them in memory of the backend. The stream is synchronized.
  Tensor Run(Tensor pixels, int64_t height, int64_t width, std::byte* workspace, Stream stream,
             const Watcher& watch = {}, const Pause& pause = {}) const;

 private:
  struct Layer {
    VqvaeBlock block;
    std::vector<ConvMatrix> matrices;  // one; four quarters when transposed; two when residual
  };
  struct Size {
    int64_t height, width;
  };
  struct Band;

  explicit ConvStack(const Backend& backend) : backend_(&backend) {}
  static bool IsPointwise(const VqvaeBlock& block);
  size_t GroupEnd(size_t begin, bool alone) const;
  static Size OutputSize(const VqvaeBlock& block, Size in);
  int64_t BandRows(size_t begin, size_t end, Size in, int64_t* floats) const;
  void RunGroup(size_t begin, size_t end, Tensor in, Size size, Tensor out, float* band,
                Stream stream, const Pause& pause) const;
  Tensor RunPointwise(size_t begin, size_t end, Tensor x, float* spare, Stream stream) const;

  const Backend* backend_;
  std::vector<Layer> layers_;
};

}  // namespace qianyi
