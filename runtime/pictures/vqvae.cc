#include "runtime/pictures/vqvae.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMatchRows = 64;  // features compared with all codes at a time

absl::StatusOr<VqvaeConfig> ReadVqvaeConfig(const std::string& folder) {
  const std::string path = JoinPath(folder, "vqvae/config.json");
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  const nlohmann::json json = ParseJson(*text);
  absl::StatusOr<VqvaeConfig> config = VqvaeConfig::Read(json);
  if (config.ok()) return config;
  return absl::Status(config.status().code(),
                      absl::StrCat(folder, ": ", config.status().message()));
}

// Floats that go to a device or come from it at a time.
int64_t StagingFloats(const VqvaeConfig& config, int64_t grid) {
  const int64_t side = grid * config.factor();
  return std::max({side * side * 3, grid * grid * int64_t{config.embed_dim},
                   kMatchRows * std::max<int64_t>(config.embed_dim, config.n_embed)});
}

// [n_embed, embed_dim]
absl::StatusOr<std::vector<float>> ReadCodebook(const VqvaeConfig& config,
                                                const Checkpoint& checkpoint) {
  const std::vector<TensorPlace> found =
      checkpoint.Find(absl::StrCat(config.prefix, "quantize_t.embed"));
  const int64_t codes = config.n_embed, dim = config.embed_dim;
  if (found.empty() || found[0].tensor->shape != std::vector<int64_t>{dim, codes}) {
    return absl::InvalidArgumentError(absl::StrCat("the VQ-VAE needs a tensor '", config.prefix,
                                                   "quantize_t.embed' of shape [", dim, ", ", codes,
                                                   "]"));
  }
  std::vector<float> columns(codes * dim), rows(codes * dim);
  absl::Status status =
      ReadFloatRows(found[0].file->path, *found[0].tensor, 0, dim, columns.data());
  if (!status.ok()) return status;
  for (int64_t code = 0; code < codes; ++code) {
    for (int64_t i = 0; i < dim; ++i) rows[code * dim + i] = columns[i * codes + code];
  }
  return rows;
}

absl::StatusOr<ConvMatrix> PackCodebook(std::span<const float> rows, int64_t dim,
                                        const Backend& backend) {
  std::vector<float> squares;
  for (size_t at = 0; at < rows.size(); at += dim) {
    double square = 0;
    for (const float value : rows.subspan(at, dim)) square += double{value} * value;
    squares.push_back(static_cast<float>(square));
  }
  return ConvMatrix::Pack(rows, static_cast<int64_t>(squares.size()), dim, squares, backend);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vqvae>> Vqvae::Open(const std::string& folder, int64_t grid,
                                                   int threads, const Backend& backend) {
  absl::StatusOr<VqvaeConfig> config = ReadVqvaeConfig(folder);
  if (!config.ok()) return config.status();
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(JoinPath(folder, "vqvae"));
  if (!checkpoint.ok()) return checkpoint.status();
  return Load(*config, *checkpoint, grid, threads, backend);
}

absl::StatusOr<std::unique_ptr<Vqvae>> Vqvae::Load(const VqvaeConfig& config,
                                                   const Checkpoint& checkpoint, int64_t grid,
                                                   int threads, const Backend& backend) {
  std::unique_ptr<Vqvae> made(new Vqvae(config, grid, backend));
  absl::StatusOr<ConvStack> encoder =
      ConvStack::Load(EncoderBlocks(config), config, checkpoint, backend);
  if (!encoder.ok()) return encoder.status();
  made->encoder_.emplace(*std::move(encoder));
  absl::StatusOr<ConvStack> decoder =
      ConvStack::Load(DecoderBlocks(config), config, checkpoint, backend);
  if (!decoder.ok()) return decoder.status();
  made->decoder_.emplace(*std::move(decoder));
  absl::StatusOr<std::vector<float>> embeddings = ReadCodebook(config, checkpoint);
  if (!embeddings.ok()) return embeddings.status();
  made->embeddings_ = *std::move(embeddings);
  absl::StatusOr<ConvMatrix> codebook = PackCodebook(made->embeddings_, config.embed_dim, backend);
  if (!codebook.ok()) return codebook.status();
  made->codebook_.emplace(*std::move(codebook));
  if (absl::Status status = made->Allocate(threads); !status.ok()) return status;
  return made;
}

absl::Status Vqvae::Allocate(int threads) {
  const int64_t staging = backend_.host_memory ? 0 : StagingFloats(config_, grid_);
  const uint64_t input_begin = WorkspaceBytes();
  workspace_bytes_ = input_begin + 2 * staging * sizeof(float);
  workspace_ = static_cast<std::byte*>(backend_.alloc(workspace_bytes_));
  if (staging > 0) {
    staging_ = static_cast<float*>(backend_.alloc_host(staging * sizeof(float)));
    input_ = reinterpret_cast<float*>(workspace_ + input_begin);
  }
  if (workspace_ == nullptr || (staging > 0 && staging_ == nullptr)) {
    return absl::ResourceExhaustedError("no memory for the VQ-VAE's activations");
  }
  stream_ = backend_.create_stream(std::max(1, threads));
  return absl::OkStatus();
}

Vqvae::~Vqvae() {
  if (stream_.handle != nullptr) backend_.destroy_stream(stream_);
  if (workspace_ != nullptr) backend_.free(workspace_, workspace_bytes_);
  if (staging_ == nullptr) return;
  backend_.free_host(staging_, StagingFloats(config_, grid_) * sizeof(float));
}

// Rows of the host where the kernels find them: no more than staging has room for.
Tensor Vqvae::Send(std::vector<float>& values, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols;
  if (staging_ == nullptr) return F32(values.data(), rows, cols);
  std::copy(values.begin(), values.end(), staging_);
  backend_.upload(input_, staging_, values.size() * sizeof(float), stream_);
  backend_.synchronize(stream_);
  return F32(input_, rows, cols);
}

std::vector<float> Vqvae::Bring(Tensor rows) {
  backend_.synchronize(stream_);
  if (staging_ == nullptr) return {rows.f32(), rows.f32() + rows.rows * rows.cols};
  std::vector<float> values(rows.rows * rows.cols);
  const int64_t most = StagingFloats(config_, grid_), count = static_cast<int64_t>(values.size());
  for (int64_t at = 0; at < count; at += most) {
    const int64_t some = std::min(most, count - at);
    backend_.download(staging_, rows.f32() + at, some * sizeof(float), stream_);
    backend_.synchronize(stream_);
    std::copy_n(staging_, some, values.begin() + at);
  }
  return values;
}

uint64_t Vqvae::WorkspaceBytes() const {
  const int64_t side = grid_ * config_.factor();
  return (std::max(encoder_->WorkspaceBytes(side, side), decoder_->WorkspaceBytes(grid_, grid_)) +
          (1 << 16)) /
         256 * 256;
}

absl::StatusOr<uint64_t> Vqvae::MemoryBytes(const std::string& folder, int64_t grid) {
  absl::StatusOr<VqvaeConfig> config = ReadVqvaeConfig(folder);
  if (!config.ok()) return config.status();
  const int64_t side = grid * config->factor(), c = config->channel;
  int64_t weights = 2 * config->n_embed * config->embed_dim;  // as a table and as a matrix
  for (const auto& blocks : {EncoderBlocks(*config), DecoderBlocks(*config)}) {
    for (const VqvaeBlock& block : blocks)
      weights += block.in * block.out * block.window * block.window;
  }
  // The widest activation is before the last convolution; three bands of what it is made from.
  const int64_t activations =
      2 * side / 2 * (side / 2) * c + 3 * std::max<int64_t>(4 << 20, side * 16 * c);
  return static_cast<uint64_t>(weights + activations + 2 * StagingFloats(*config, grid)) *
         sizeof(float);
}

std::vector<float> Vqvae::Features(std::span<const float> pixels, int64_t height, int64_t width) {
  std::vector<float> copy(pixels.begin(), pixels.end());
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  return Bring(
      encoder_->Run(Send(copy, 3), height, width, workspace_, stream_, {}, [&] { turn.Yield(); }));
}

std::vector<float> Vqvae::Distances(std::span<const float> features) {
  const int64_t dim = config_.embed_dim, codes = config_.n_embed;
  std::vector<float> out;
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  while (!features.empty()) {
    const auto some = features.first(std::min<size_t>(features.size(), kMatchRows * dim));
    std::vector<float> twice(some.begin(), some.end());
    for (float& value : twice) value *= -2.0f;
    const Tensor x = Send(twice, dim);
    std::vector<float> here(staging_ == nullptr ? x.rows * codes : 0);
    const Tensor products =
        F32(staging_ == nullptr ? here.data() : input_ + x.rows * dim, x.rows, codes);
    codebook_->Multiply(x, {}, products, stream_);
    const std::vector<float> distances = Bring(products);
    for (int64_t i = 0; i < x.rows; ++i) {
      double square = 0;
      for (const float value : some.subspan(i * dim, dim)) square += double{value} * value;
      for (int64_t code = 0; code < codes; ++code) {
        out.push_back(distances[i * codes + code] + static_cast<float>(square));
      }
    }
    features = features.subspan(some.size());
  }
  return out;
}

std::vector<int32_t> Vqvae::Nearest(std::span<const float> features) {
  const size_t step = static_cast<size_t>(kMatchRows * config_.embed_dim);
  std::vector<int32_t> codes;
  for (size_t at = 0; at < features.size(); at += step) {
    const std::vector<float> distances =
        Distances(features.subspan(at, std::min(step, features.size() - at)));
    for (auto row = distances.begin(); row != distances.end(); row += config_.n_embed) {
      codes.push_back(static_cast<int32_t>(std::min_element(row, row + config_.n_embed) - row));
    }
  }
  return codes;
}

std::vector<float> Vqvae::Quantized(std::span<const int32_t> codes) const {
  std::vector<float> features;
  features.reserve(codes.size() * config_.embed_dim);
  for (const int32_t code : codes) {
    const auto row = embeddings_.begin() + code * config_.embed_dim;
    features.insert(features.end(), row, row + config_.embed_dim);
  }
  return features;
}

std::vector<float> Vqvae::Decode(std::span<const int32_t> codes, int64_t rows, int64_t columns,
                                 const ConvStack::Watcher& watch) {
  std::vector<float> features = Quantized(codes);
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  ConvStack::Watcher bring;
  if (watch) {
    bring = [&](size_t block, Tensor out) {
      std::vector<float> values = Bring(out);
      watch(block, F32(values.data(), out.rows, out.cols));
    };
  }
  return Bring(decoder_->Run(Send(features, config_.embed_dim), rows, columns, workspace_, stream_,
                             bring, [&] { turn.Yield(); }));
}

}  // namespace qianyi
