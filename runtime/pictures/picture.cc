#include "runtime/pictures/picture.h"

#include <algorithm>
#include <cmath>

namespace qianyi {
namespace {

constexpr int kPrecisionBits = 22;  // of a coefficient

// What one place of the result is made of, along one side.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;  // fixed point, about 1 in all
};

std::vector<Taps> BilinearTaps(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);  // of a triangle as wide as what it stands for
  std::vector<Taps> taps(out);
  std::vector<double> weights;
  for (int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
    const int64_t last = std::min<int64_t>(in, static_cast<int64_t>(centre + support + 0.5));
    double sum = 0;
    weights.clear();
    for (int64_t k = first; k < last; ++k) {
      const double away = std::abs((static_cast<double>(k) - centre + 0.5) / support);
      weights.push_back(away < 1.0 ? 1.0 - away : 0.0);
      sum += weights.back();
    }
    taps[i].first = first;
    for (const double weight : weights) {
      const double fixed = weight / sum * (1 << kPrecisionBits);
      taps[i].weights.push_back(static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
  }
  return taps;
}

uint8_t FromFixed(int64_t sum) {
  return static_cast<uint8_t>(std::clamp<int64_t>(sum >> kPrecisionBits, 0, 255));
}

// Every line of `count` places `stride` bytes apart, the lines `line_stride` apart.
Picture AlongRows(const Picture& in, int64_t width) {
  const std::vector<Taps> taps = BilinearTaps(in.width, width);
  Picture out = {width, in.height, in.channels, {}};
  out.bytes.resize(width * in.height * in.channels);
  for (int64_t y = 0; y < in.height; ++y) {
    const uint8_t* line = in.bytes.data() + y * in.width * in.channels;
    uint8_t* to = out.bytes.data() + y * width * in.channels;
    for (const Taps& tap : taps) {
      for (int64_t c = 0; c < in.channels; ++c) {
        int64_t sum = 1 << (kPrecisionBits - 1);
        const uint8_t* from = line + tap.first * in.channels + c;
        for (const int32_t weight : tap.weights) {
          sum += int64_t{weight} * *from;
          from += in.channels;
        }
        *to++ = FromFixed(sum);
      }
    }
  }
  return out;
}

Picture AlongColumns(const Picture& in, int64_t height) {
  const std::vector<Taps> taps = BilinearTaps(in.height, height);
  const int64_t line_bytes = in.width * in.channels;
  Picture out = {in.width, height, in.channels, {}};
  out.bytes.resize(height * line_bytes);
  uint8_t* to = out.bytes.data();
  for (const Taps& tap : taps) {
    for (int64_t i = 0; i < line_bytes; ++i) {
      int64_t sum = 1 << (kPrecisionBits - 1);
      const uint8_t* from = in.bytes.data() + tap.first * line_bytes + i;
      for (const int32_t weight : tap.weights) {
        sum += int64_t{weight} * *from;
        from += line_bytes;
      }
      *to++ = FromFixed(sum);
    }
  }
  return out;
}

// Colours times alpha, and back, in the rounding that Pillow has.
void Premultiply(Picture* picture) {
  for (size_t i = 0; i + 3 < picture->bytes.size(); i += 4) {
    const int alpha = picture->bytes[i + 3];
    for (int c = 0; c < 3; ++c) {
      const int product = picture->bytes[i + c] * alpha + 128;
      picture->bytes[i + c] = static_cast<uint8_t>(((product >> 8) + product) >> 8);
    }
  }
}

void Unpremultiply(Picture* picture) {
  for (size_t i = 0; i + 3 < picture->bytes.size(); i += 4) {
    const int alpha = picture->bytes[i + 3];
    if (alpha == 0 || alpha == 255) continue;
    for (int c = 0; c < 3; ++c) {
      picture->bytes[i + c] =
          static_cast<uint8_t>(std::min(255, 255 * picture->bytes[i + c] / alpha));
    }
  }
}

int64_t HalfRoundedToEven(int64_t difference) {
  const int64_t half = difference / 2;
  return difference % 2 == 0 ? half : half + half % 2;
}

}  // namespace

Picture Resize(const Picture& picture, int64_t width, int64_t height) {
  if (width == picture.width && height == picture.height) return picture;
  Picture out = picture;
  if (out.channels == 4) Premultiply(&out);
  if (width != out.width) out = AlongRows(out, width);
  if (height != out.height) out = AlongColumns(out, height);
  if (out.channels == 4) Unpremultiply(&out);
  return out;
}

Picture Crop(const Picture& picture, int64_t left, int64_t top, int64_t width, int64_t height) {
  Picture out = {width, height, picture.channels, {}};
  for (int64_t y = top; y < top + height; ++y) {
    const auto line = picture.bytes.begin() + (y * picture.width + left) * picture.channels;
    out.bytes.insert(out.bytes.end(), line, line + width * picture.channels);
  }
  return out;
}

Picture ResizeAndCrop(const Picture& picture, int64_t side) {
  const int64_t shorter = std::min(picture.width, picture.height);
  const auto scaled = [&](int64_t length) {
    return length == shorter ? side : std::max(side, side * length / shorter);
  };
  Picture sized = Resize(picture, scaled(picture.width), scaled(picture.height));
  Picture out = Crop(sized, HalfRoundedToEven(sized.width - side),
                     HalfRoundedToEven(sized.height - side), side, side);
  if (out.channels == 4) {
    size_t to = 0;
    for (size_t i = 0; i < out.bytes.size(); ++i) {
      if (i % 4 != 3) out.bytes[to++] = out.bytes[i];
    }
    out.bytes.resize(to);
    out.channels = 3;
  }
  return out;
}

std::vector<float> ToPixels(const Picture& picture, const VqvaeConfig& config) {
  std::vector<float> pixels(picture.bytes.size());
  for (size_t i = 0; i < pixels.size(); ++i) {
    const float value = static_cast<float>(picture.bytes[i]) / 255.0f;
    pixels[i] = (value - config.mean[i % 3]) / config.deviation[i % 3];
  }
  return pixels;
}

uint8_t ToByte(float value) {
  return static_cast<uint8_t>(std::clamp(value * 255.0f + 0.5f, 0.0f, 255.0f));
}

Picture ToPicture(std::span<const float> pixels, int64_t width, int64_t height,
                  const VqvaeConfig& config) {
  Picture picture = {width, height, 3, {}};
  picture.bytes.reserve(pixels.size());
  for (size_t i = 0; i < pixels.size(); ++i) {
    const float value = pixels[i] * config.deviation[i % 3] + config.mean[i % 3];
    picture.bytes.push_back(ToByte(std::isnan(value) ? 0.0f : std::clamp(value, 0.0f, 1.0f)));
  }
  return picture;
}

}  // namespace qianyi
