#include "runtime/pictures/picture_file.h"

#include <jpeglib.h>
#include <png.h>
#include <webp/decode.h>
#include <webp/encode.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

absl::Status CheckSize(int64_t width, int64_t height, const PictureLimits& limits) {
  if (width < 1 || height < 1 || width > limits.side || height > limits.side ||
      width * height > limits.pixels) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the picture is %dx%d; at most %d on a side and %d pixels in all; make it smaller", width,
        height, limits.side, limits.pixels));
  }
  return absl::OkStatus();
}

absl::Status Broken(const char* what, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("the %s file is damaged: %s", what, why));
}

// libjpeg reports through longjmp: everything with a destructor lives outside these functions.
struct JpegFailure {
  jpeg_error_mgr manager;
  jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

extern "C" void JpegFail(j_common_ptr info) {
  auto* failure = reinterpret_cast<JpegFailure*>(info->err);
  info->err->format_message(info, failure->message);
  longjmp(failure->back, 1);
}
extern "C" void JpegSilent(j_common_ptr, int) {}

void PrepareFailure(JpegFailure* failure) {
  failure->message[0] = '\0';
  jpeg_std_error(&failure->manager);
  failure->manager.error_exit = JpegFail;
  failure->manager.emit_message = JpegSilent;
}

bool ReadJpegHeader(jpeg_decompress_struct* info, JpegFailure* failure, std::string_view bytes) {
  if (setjmp(failure->back) != 0) return false;
  jpeg_create_decompress(info);
  jpeg_mem_src(info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(info, TRUE);
  info->out_color_space = JCS_RGB;
  // Progressive files keep all coefficients in memory; beyond this libjpeg gives up.
  info->mem->max_memory_to_use = 256 << 20;
  return true;
}

bool ReadJpegRows(jpeg_decompress_struct* info, JpegFailure* failure, uint8_t* out) {
  if (setjmp(failure->back) != 0) return false;
  jpeg_start_decompress(info);
  while (info->output_scanline < info->output_height) {
    JSAMPROW row = out + static_cast<size_t>(info->output_scanline) * info->output_width * 3;
    jpeg_read_scanlines(info, &row, 1);
  }
  jpeg_finish_decompress(info);
  return true;
}

absl::StatusOr<Picture> DecodeJpeg(std::string_view bytes, const PictureLimits& limits) {
  jpeg_decompress_struct info = {};
  JpegFailure failure;
  PrepareFailure(&failure);
  info.err = &failure.manager;
  Picture picture;
  absl::Status status;
  if (!ReadJpegHeader(&info, &failure, bytes)) {
    status = Broken("JPEG", failure.message);
  } else {
    status = CheckSize(info.image_width, info.image_height, limits);
  }
  if (status.ok()) {
    picture = {info.image_width, info.image_height, 3, {}};
    picture.bytes.resize(static_cast<size_t>(picture.width * picture.height) * 3);
    if (!ReadJpegRows(&info, &failure, picture.bytes.data())) {
      status = Broken("JPEG", failure.message);
    }
  }
  jpeg_destroy_decompress(&info);
  if (!status.ok()) return status;
  return picture;
}

bool WriteJpeg(jpeg_compress_struct* info, JpegFailure* failure, const Picture& picture,
               int quality, unsigned char** out, unsigned long* size) {
  if (setjmp(failure->back) != 0) return false;
  jpeg_create_compress(info);
  jpeg_mem_dest(info, out, size);
  info->image_width = static_cast<JDIMENSION>(picture.width);
  info->image_height = static_cast<JDIMENSION>(picture.height);
  info->input_components = 3;
  info->in_color_space = JCS_RGB;
  jpeg_set_defaults(info);
  jpeg_set_quality(info, quality, TRUE);
  jpeg_start_compress(info, TRUE);
  while (info->next_scanline < info->image_height) {
    JSAMPROW row = const_cast<uint8_t*>(picture.bytes.data()) +
                   static_cast<size_t>(info->next_scanline) * picture.width * 3;
    jpeg_write_scanlines(info, &row, 1);
  }
  jpeg_finish_compress(info);
  return true;
}

absl::StatusOr<std::string> EncodeJpeg(const Picture& picture, int quality) {
  jpeg_compress_struct info = {};
  JpegFailure failure;
  PrepareFailure(&failure);
  info.err = &failure.manager;
  unsigned char* data = nullptr;
  unsigned long size = 0;
  const bool written = WriteJpeg(&info, &failure, picture, quality, &data, &size);
  jpeg_destroy_compress(&info);
  std::string out(reinterpret_cast<const char*>(data), written ? size : 0);
  std::free(data);
  if (!written)
    return absl::InternalError(absl::StrFormat("cannot write JPEG: %s", failure.message));
  return out;
}

absl::StatusOr<Picture> DecodePng(std::string_view bytes, const PictureLimits& limits) {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) == 0) {
    return Broken("PNG", image.message);
  }
  absl::Status status = CheckSize(image.width, image.height, limits);
  if (!status.ok()) {
    png_image_free(&image);
    return status;
  }
  const bool alpha = (image.format & PNG_FORMAT_FLAG_ALPHA) != 0;
  image.format = alpha ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  Picture picture = {image.width, image.height, alpha ? 4 : 3, {}};
  picture.bytes.resize(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, picture.bytes.data(), 0, nullptr) == 0) {
    const std::string message = image.message;
    png_image_free(&image);
    return Broken("PNG", message);
  }
  return picture;
}

absl::StatusOr<std::string> EncodePng(const Picture& picture) {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  if (png_image_write_to_memory(&image, nullptr, &size, 0, picture.bytes.data(), 0, nullptr) == 0) {
    return absl::InternalError(absl::StrFormat("cannot write PNG: %s", image.message));
  }
  std::string out(size, '\0');
  if (png_image_write_to_memory(&image, out.data(), &size, 0, picture.bytes.data(), 0, nullptr) ==
      0) {
    return absl::InternalError(absl::StrFormat("cannot write PNG: %s", image.message));
  }
  out.resize(size);
  return out;
}

absl::StatusOr<Picture> DecodeWebp(std::string_view bytes, const PictureLimits& limits) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, bytes.size(), &features) != VP8_STATUS_OK) {
    return Broken("WebP", "its header makes no sense");
  }
  if (absl::Status status = CheckSize(features.width, features.height, limits); !status.ok()) {
    return status;
  }
  if (features.has_animation != 0) {
    return absl::InvalidArgumentError("the WebP file is an animation; give one picture");
  }
  const bool alpha = features.has_alpha != 0;
  Picture picture = {features.width, features.height, alpha ? 4 : 3, {}};
  const int stride = static_cast<int>(picture.width * picture.channels);
  picture.bytes.resize(static_cast<size_t>(stride) * picture.height);
  const auto decode = alpha ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  if (decode(data, bytes.size(), picture.bytes.data(), picture.bytes.size(), stride) == nullptr) {
    return Broken("WebP", "its pixels cannot be read");
  }
  return picture;
}

absl::StatusOr<std::string> EncodeWebp(const Picture& picture, int quality) {
  uint8_t* data = nullptr;
  const size_t size = WebPEncodeRGB(
      picture.bytes.data(), static_cast<int>(picture.width), static_cast<int>(picture.height),
      static_cast<int>(picture.width * 3), static_cast<float>(quality), &data);
  std::string out(reinterpret_cast<const char*>(data), size);
  WebPFree(data);
  if (size == 0) return absl::InternalError("cannot write WebP");
  return out;
}

}  // namespace

absl::StatusOr<PictureFormat> ParsePictureFormat(std::string_view name) {
  if (name == "png") return PictureFormat::kPng;
  if (name == "jpeg" || name == "jpg") return PictureFormat::kJpeg;
  if (name == "webp") return PictureFormat::kWebp;
  return absl::InvalidArgumentError(
      absl::StrFormat("output_format is '%s'; it must be png, jpeg or webp", name));
}

std::string_view PictureFormatName(PictureFormat format) {
  constexpr std::string_view kNames[] = {"png", "jpeg", "webp"};
  return kNames[static_cast<int>(format)];
}

absl::StatusOr<std::string> EncodePicture(const Picture& picture, PictureFormat format,
                                          int quality) {
  switch (format) {
    case PictureFormat::kJpeg:
      return EncodeJpeg(picture, quality);
    case PictureFormat::kWebp:
      return EncodeWebp(picture, quality);
    case PictureFormat::kPng:
      break;
  }
  return EncodePng(picture);
}

absl::StatusOr<Picture> DecodePicture(std::string_view bytes, const PictureLimits& limits) {
  if (bytes.size() > limits.file_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the picture's file has %d bytes; at most %d; make it smaller",
                        bytes.size(), limits.file_bytes));
  }
  if (bytes.starts_with("\x89PNG")) return DecodePng(bytes, limits);
  if (bytes.starts_with("\xff\xd8")) return DecodeJpeg(bytes, limits);
  if (bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") {
    return DecodeWebp(bytes, limits);
  }
  return absl::InvalidArgumentError("the picture is none of PNG, JPEG and WebP");
}

}  // namespace qianyi
