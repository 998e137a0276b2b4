// Pictures that clients send: whatever the bytes, an error or a picture of the size it says.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "runtime/pictures/picture_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const qianyi::PictureLimits limits = {.file_bytes = 1 << 20, .side = 1024, .pixels = 1 << 18};
  const auto picture = qianyi::DecodePicture(bytes, limits);
  if (!picture.ok()) return 0;
  const int64_t pixels = picture->width * picture->height;
  if (pixels < 1 || pixels > limits.pixels ||
      static_cast<int64_t>(picture->bytes.size()) != pixels * picture->channels) {
    __builtin_trap();
  }
  const qianyi::Picture sized = qianyi::ResizeAndCrop(*picture, 32);
  if (sized.bytes.size() != 32 * 32 * 3) __builtin_trap();
  return 0;
}
