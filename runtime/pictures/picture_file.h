// Picture files: PNG, JPEG and WebP, out of and into memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/pictures/picture.h"

namespace qianyi {

enum class PictureFormat : uint8_t { kPng, kJpeg, kWebp };

// "png", "jpeg" or "jpg", "webp".
absl::StatusOr<PictureFormat> ParsePictureFormat(std::string_view name);
std::string_view PictureFormatName(PictureFormat format);  // "png"; the media type is "image/png"

// `quality` of JPEG and WebP: 1..100. RGB only.
absl::StatusOr<std::string> EncodePicture(const Picture& picture, PictureFormat format,
                                          int quality = 90);

// Sizes are checked in the header, before anything is allocated for pixels.
struct PictureLimits {
  size_t file_bytes = 16 << 20;
  int64_t side = 8192;
  int64_t pixels = 32 << 20;
};
// PNG, JPEG or WebP by their first bytes; grey becomes RGB, alpha stays. InvalidArgument says what
// is wrong, or which limit is passed; whatever the bytes are, that is all that can happen.
absl::StatusOr<Picture> DecodePicture(std::string_view bytes, const PictureLimits& limits = {});

}  // namespace qianyi
