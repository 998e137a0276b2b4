// A picture in memory, and how it becomes what the VQ-VAE reads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/pictures/vqvae_config.h"

namespace qianyi {

struct Picture {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 3;        // 3: RGB; 4: RGB and alpha
  std::vector<uint8_t> bytes;  // [height, width, channels]
};

// Bilinear with antialiasing, bit for bit as Pillow resizes 8-bit pictures: first along rows, then
// along columns, in fixed point; alpha is multiplied in meanwhile. Sizes are at least 1.
Picture Resize(const Picture& picture, int64_t width, int64_t height);
// The shorter side becomes `side`, the middle stays, alpha is dropped: RGB, side × side.
Picture ResizeAndCrop(const Picture& picture, int64_t side);
Picture Crop(const Picture& picture, int64_t left, int64_t top, int64_t width, int64_t height);

// Normalised pixels [height * width, 3] of an RGB picture, and back, clamped to 0..255.
std::vector<float> ToPixels(const Picture& picture, const VqvaeConfig& config);
Picture ToPicture(std::span<const float> pixels, int64_t width, int64_t height,
                  const VqvaeConfig& config);
// One value of a picture that was 0..1.
uint8_t ToByte(float value);

}  // namespace qianyi
