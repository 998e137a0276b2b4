// Pictures to codes and back: CogView's discrete autoencoder (van den Oord et al. 2017,
// arXiv:1711.00937).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/compute_share.h"
#include "runtime/pictures/conv_stack.h"
#include "runtime/pictures/vqvae_config.h"

namespace qianyi {

class Vqvae {
 public:
  // FOLDER/vqvae with its config.json and a checkpoint; pictures of at most grid × grid codes.
  // NotFound when there is no such folder; other errors name the file, tensor or field. Weights and
  // activations are in memory of the backend.
  static absl::StatusOr<std::unique_ptr<Vqvae>> Open(const std::string& folder, int64_t grid,
                                                     int threads, const Backend& backend = Cpu());
  static absl::StatusOr<std::unique_ptr<Vqvae>> Load(const VqvaeConfig& config,
                                                     const Checkpoint& checkpoint, int64_t grid,
                                                     int threads, const Backend& backend = Cpu());
  // What Open takes, from the config alone, so that a plan can hold it.
  static absl::StatusOr<uint64_t> MemoryBytes(const std::string& folder, int64_t grid);
  ~Vqvae();
  Vqvae(const Vqvae&) = delete;
  Vqvae& operator=(const Vqvae&) = delete;

  // Its turn among models on the same processors, or null. Before any of what follows.
  void UseShare(ComputeShare::Member* share) { share_ = share; }

  const VqvaeConfig& config() const { return config_; }
  int64_t grid() const { return grid_; }  // the most codes on a side

  // All below are thread-safe, one at a time, and take pixels [height * width, 3] row-major.
  // Sizes are multiples of config().factor() and at most grid() of it; codes are below n_embed.
  // Features of normalised pixels: [height / factor * width / factor, embed_dim].
  std::vector<float> Features(std::span<const float> pixels, int64_t height, int64_t width);
  // Squared distances of features [n, embed_dim] to each code: [n, n_embed].
  std::vector<float> Distances(std::span<const float> features);
  // The nearest code of each; the lowest where several are as near.
  std::vector<int32_t> Nearest(std::span<const float> features);
  // The features that codes stand for: [n, embed_dim].
  std::vector<float> Quantized(std::span<const int32_t> codes) const;
  // Normalised pixels [rows * factor * columns * factor, 3] of rows × columns codes.
  std::vector<float> Decode(std::span<const int32_t> codes, int64_t rows, int64_t columns,
                            const ConvStack::Watcher& watch = {});

 private:
  Vqvae(const VqvaeConfig& config, int64_t grid, const Backend& backend)
      : backend_(backend), config_(config), grid_(grid) {}
  uint64_t WorkspaceBytes() const;
  absl::Status Allocate(int threads);
  Tensor Send(std::vector<float>& values, int64_t cols);
  std::vector<float> Bring(Tensor rows);

  const Backend& backend_;

  const VqvaeConfig config_;
  const int64_t grid_;
  std::optional<ConvStack> encoder_, decoder_;
  std::vector<float> embeddings_;          // [n_embed, embed_dim]
  std::optional<ConvMatrix> codebook_;     // the same; the bias: |e|²
  std::mutex mutex_;                       // guards what follows
  ComputeShare::Member* share_ = nullptr;  // entered with the mutex held: by one thread at a time
  Stream stream_;
  std::byte* workspace_ = nullptr;
  uint64_t workspace_bytes_ = 0;
  // Only with a device of memory of its own: its part of the workspace, and the host's.
  float* input_ = nullptr;
  float* staging_ = nullptr;
};

}  // namespace qianyi
