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

absl::StatusOr<ConvMatrix> LoadCodebook(const VqvaeConfig& config, const Checkpoint& checkpoint) {
  const std::vector<TensorPlace> found =
      checkpoint.Find(absl::StrCat(config.prefix, "quantize_t.embed"));
  const int64_t codes = config.n_embed, dim = config.embed_dim;
  if (found.empty() || found[0].tensor->shape != std::vector<int64_t>{dim, codes}) {
    return absl::InvalidArgumentError(absl::StrCat("the VQ-VAE needs a tensor '", config.prefix,
                                                   "quantize_t.embed' of shape [", dim, ", ", codes,
                                                   "]"));
  }
  std::vector<float> columns(codes * dim), rows(codes * dim), squares(codes);
  absl::Status status =
      ReadFloatRows(found[0].file->path, *found[0].tensor, 0, dim, columns.data());
  if (!status.ok()) return status;
  for (int64_t code = 0; code < codes; ++code) {
    double square = 0;
    for (int64_t i = 0; i < dim; ++i) {
      const float value = columns[i * codes + code];
      rows[code * dim + i] = value;
      square += double{value} * value;
    }
    squares[code] = static_cast<float>(square);
  }
  return ConvMatrix::Pack(rows, codes, dim, std::move(squares), Cpu());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vqvae>> Vqvae::Open(const std::string& folder, int64_t grid,
                                                   int threads) {
  absl::StatusOr<VqvaeConfig> config = ReadVqvaeConfig(folder);
  if (!config.ok()) return config.status();
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(JoinPath(folder, "vqvae"));
  if (!checkpoint.ok()) return checkpoint.status();
  return Load(*config, *checkpoint, grid, threads);
}

absl::StatusOr<std::unique_ptr<Vqvae>> Vqvae::Load(const VqvaeConfig& config,
                                                   const Checkpoint& checkpoint, int64_t grid,
                                                   int threads) {
  std::unique_ptr<Vqvae> made(new Vqvae(config, grid));
  absl::StatusOr<ConvStack> encoder =
      ConvStack::Load(EncoderBlocks(config), config, checkpoint, Cpu());
  if (!encoder.ok()) return encoder.status();
  made->encoder_.emplace(*std::move(encoder));
  absl::StatusOr<ConvStack> decoder =
      ConvStack::Load(DecoderBlocks(config), config, checkpoint, Cpu());
  if (!decoder.ok()) return decoder.status();
  made->decoder_.emplace(*std::move(decoder));
  absl::StatusOr<ConvMatrix> codebook = LoadCodebook(config, checkpoint);
  if (!codebook.ok()) return codebook.status();
  made->codebook_.emplace(*std::move(codebook));
  made->workspace_bytes_ = made->WorkspaceBytes();
  made->workspace_ = static_cast<std::byte*>(Cpu().alloc(made->workspace_bytes_));
  if (made->workspace_ == nullptr) {
    return absl::ResourceExhaustedError("no memory for the VQ-VAE's activations");
  }
  made->stream_ = Cpu().create_stream(std::max(1, threads));
  return made;
}

Vqvae::~Vqvae() {
  if (stream_.handle != nullptr) Cpu().destroy_stream(stream_);
  if (workspace_ != nullptr) Cpu().free(workspace_, workspace_bytes_);
}

uint64_t Vqvae::WorkspaceBytes() const {
  const int64_t side = grid_ * config_.factor();
  return std::max(encoder_->WorkspaceBytes(side, side), decoder_->WorkspaceBytes(grid_, grid_)) +
         (1 << 16);
}

absl::StatusOr<uint64_t> Vqvae::MemoryBytes(const std::string& folder, int64_t grid) {
  absl::StatusOr<VqvaeConfig> config = ReadVqvaeConfig(folder);
  if (!config.ok()) return config.status();
  const int64_t side = grid * config->factor(), c = config->channel;
  int64_t weights = config->n_embed * config->embed_dim;
  for (const auto& blocks : {EncoderBlocks(*config), DecoderBlocks(*config)}) {
    for (const VqvaeBlock& block : blocks)
      weights += block.in * block.out * block.window * block.window;
  }
  // The widest activation is before the last convolution; three bands of what it is made from.
  const int64_t activations =
      2 * side / 2 * (side / 2) * c + 3 * std::max<int64_t>(4 << 20, side * 16 * c);
  return static_cast<uint64_t>(weights + activations) * sizeof(float);
}

std::vector<float> Vqvae::Features(std::span<const float> pixels, int64_t height, int64_t width) {
  std::vector<float> copy(pixels.begin(), pixels.end());
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  const Tensor out = encoder_->Run(F32(copy.data(), height * width, 3), height, width, workspace_,
                                   stream_, {}, [&] { turn.Yield(); });
  return {out.f32(), out.f32() + out.rows * out.cols};
}

std::vector<float> Vqvae::Distances(std::span<const float> features) {
  const int64_t dim = config_.embed_dim, count = static_cast<int64_t>(features.size()) / dim;
  std::vector<float> twice(features.begin(), features.end()), out(count * config_.n_embed);
  for (float& value : twice) value *= -2.0f;
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  codebook_->Multiply(F32(twice.data(), count, dim), {}, F32(out.data(), count, config_.n_embed),
                      stream_);
  for (int64_t i = 0; i < count; ++i) {
    double square = 0;
    for (int64_t k = 0; k < dim; ++k)
      square += double{features[i * dim + k]} * features[i * dim + k];
    for (int64_t code = 0; code < config_.n_embed; ++code) {
      out[i * config_.n_embed + code] += static_cast<float>(square);
    }
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
  std::vector<float> features(codes.size() * config_.embed_dim);
  for (size_t i = 0; i < codes.size(); ++i) {
    UnpackRow(codebook_->rows(), codes[i], features.data() + i * config_.embed_dim);
  }
  return features;
}

std::vector<float> Vqvae::Decode(std::span<const int32_t> codes, int64_t rows, int64_t columns,
                                 const ConvStack::Watcher& watch) {
  std::vector<float> features = Quantized(codes);
  std::lock_guard lock(mutex_);
  ComputeTurn turn(share_);
  const Tensor out = decoder_->Run(F32(features.data(), rows * columns, config_.embed_dim), rows,
                                   columns, workspace_, stream_, watch, [&] { turn.Yield(); });
  return {out.f32(), out.f32() + out.rows * out.cols};
}

}  // namespace qianyi
