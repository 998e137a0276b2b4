#include "runtime/pictures/vqvae_config.h"

#include "absl/strings/str_cat.h"
#include "runtime/models/config.h"

namespace qianyi {
namespace {

using Kind = VqvaeBlock::Kind;

// Lists blocks and numbers them.
class BlockList {
 public:
  explicit BlockList(std::string prefix) : prefix_(std::move(prefix)) {}
  void Relu() { Add({.kind = Kind::kRelu}); }
  void Convolution(int64_t in, int64_t out, int64_t window, int64_t stride) {
    Add({.kind = Kind::kConvolution, .in = in, .out = out, .window = window, .stride = stride});
  }
  void Transposed(int64_t in, int64_t out) {
    Add({.kind = Kind::kTransposed,
         .in = in,
         .out = out,
         .window = 4,
         .stride = 2,
         .in_first = true});
  }
  void TransposedPoint(int64_t in, int64_t out) {
    Add({.kind = Kind::kConvolution, .in = in, .out = out, .in_first = true});
  }
  void Residuals(const VqvaeConfig& config) {
    for (int64_t i = 0; i < config.n_res_block; ++i) {
      Add({.kind = Kind::kResidual, .in = config.channel, .out = config.channel, .window = 3});
    }
  }
  std::vector<VqvaeBlock> Take() { return std::move(blocks_); }

 private:
  void Add(VqvaeBlock block) {
    block.name = absl::StrCat(prefix_, blocks_.size());
    blocks_.push_back(std::move(block));
  }
  const std::string prefix_;
  std::vector<VqvaeBlock> blocks_;
};

absl::Status ReadColours(const nlohmann::json& config, const char* field,
                         std::array<float, 3>* out) {
  const auto given = config.find(field);
  if (given == config.end() || given->is_null()) return absl::OkStatus();
  bool good = given->is_array() && given->size() == 3;
  for (size_t i = 0; good && i < 3; ++i) {
    good = (*given)[i].is_number() && (*given)[i].get<double>() >= -100 &&
           (*given)[i].get<double>() <= 100;
    if (good) (*out)[i] = (*given)[i].get<float>();
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("vqvae/config.json: ", field, " must be three numbers, of red, green and blue"));
}

}  // namespace

absl::StatusOr<VqvaeConfig> VqvaeConfig::Read(const nlohmann::json& config) {
  if (!config.is_object()) return absl::InvalidArgumentError("vqvae/config.json is not an object");
  ConfigReader reader(config);
  VqvaeConfig c;
  c.channel = reader.Int("channel", 4, 8192, c.channel);
  c.n_res_block = reader.Int("n_res_block", 0, 64, c.n_res_block);
  c.n_res_channel = reader.Int("n_res_channel", 1, 8192, c.n_res_channel);
  c.embed_dim = reader.Int("embed_dim", 1, 8192, c.embed_dim);
  c.n_embed = reader.Int("n_embed", 1, 1 << 20, c.n_embed);
  c.stride = reader.Int("stride", 4, 6, c.stride);
  c.simple = reader.Bool("simple", c.simple);
  reader.Require(c.stride != 5, "stride must be 4 or 6");
  if (!reader.status().ok())
    return absl::InvalidArgumentError(absl::StrCat("vqvae/", reader.status().message()));
  if (absl::Status status = ReadColours(config, "mean_rgb", &c.mean); !status.ok()) return status;
  if (absl::Status status = ReadColours(config, "std_rgb", &c.deviation); !status.ok())
    return status;
  for (const float deviation : c.deviation) {
    if (!(deviation > 0)) {
      return absl::InvalidArgumentError("vqvae/config.json: std_rgb must be above 0");
    }
  }
  if (const auto prefix = config.find("prefix"); prefix != config.end() && prefix->is_string()) {
    c.prefix = prefix->get<std::string>();
  }
  return c;
}

std::vector<VqvaeBlock> EncoderBlocks(const VqvaeConfig& config) {
  BlockList list("enc_b.blocks.");
  const int64_t c = config.channel;
  if (config.stride == 6) {
    const int64_t first = config.simple ? c : c / 4, second = config.simple ? c : c / 2;
    list.Convolution(3, first, 4, 2);
    list.Relu();
    list.Convolution(first, second, 4, 2);
    list.Relu();
    list.Convolution(second, c, 4, 2);
  } else {
    list.Convolution(3, c / 2, 4, 2);
    list.Relu();
    list.Convolution(c / 2, c, 4, 2);
    list.Relu();
    list.Convolution(c, c, 3, 1);
  }
  list.Residuals(config);
  list.Relu();
  list.Convolution(c, config.embed_dim, 1, 1);
  return list.Take();
}

std::vector<VqvaeBlock> DecoderBlocks(const VqvaeConfig& config) {
  BlockList list("dec.blocks.");
  const int64_t c = config.channel;
  list.Transposed(config.embed_dim, c);
  list.Residuals(config);
  list.Relu();
  if (config.stride == 4) {
    list.Transposed(c, 3);
  } else if (config.simple) {
    list.Transposed(c, c);
    list.Relu();
    list.Transposed(c, c);
    list.Relu();
    list.Convolution(c, 3, 1, 1);
  } else {
    list.Transposed(c, c);
    list.Relu();
    list.TransposedPoint(c, c / 2);
    list.Relu();
    list.Transposed(c / 2, 3);
  }
  return list.Take();
}

}  // namespace qianyi
