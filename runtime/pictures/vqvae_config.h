// The shape of a CogView VQ-VAE. The released one's is the default.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace qianyi {

struct VqvaeConfig {
  int64_t channel = 512;
  int64_t n_res_block = 0;
  int64_t n_res_channel = 32;
  int64_t embed_dim = 256;
  int64_t n_embed = 8192;
  int64_t stride = 6;  // 6: 8 pixels on a side of a code; 4: 4 pixels
  bool simple = true;
  std::array<float, 3> mean = {0.79093f, 0.76271f, 0.75340f};  // of RGB in 0..1
  std::array<float, 3> deviation = {0.30379f, 0.32279f, 0.32800f};
  std::string prefix;  // of the tensors' names

  // InvalidArgument names the field, its value and what is allowed.
  static absl::StatusOr<VqvaeConfig> Read(const nlohmann::json& config);

  int64_t factor() const { return stride == 6 ? 8 : 4; }  // pixels on a side of a code
};

// One block of the encoder or decoder, in order. Blocks count ReLUs, as their tensors' names do.
struct VqvaeBlock {
  enum class Kind : uint8_t {
    kRelu,
    kConvolution,  // window², padded by 1 where the window is larger than 1
    kTransposed,   // 4x4, stride 2, padded by 1
    kResidual,     // conv1x1(relu(conv3x3(relu(x)))) + relu(x)
  };
  Kind kind = Kind::kRelu;
  std::string name = {};  // of its tensors, without ".weight"
  int64_t in = 0, out = 0;
  int64_t window = 1, stride = 1;
  bool in_first = false;  // its weight is stored [in, out, …]
};
std::vector<VqvaeBlock> EncoderBlocks(const VqvaeConfig& config);
std::vector<VqvaeBlock> DecoderBlocks(const VqvaeConfig& config);

}  // namespace qianyi
