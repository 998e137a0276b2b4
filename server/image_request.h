// A request about pictures, whichever front end it came through, and the one table that its fields
// are read by.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/pictures/picture_file.h"
#include "server/parameters.h"

namespace qianyi {

enum class ImageWork : uint8_t { kGenerate, kEdit, kCaption };

struct ImageRequest {
  ImageWork work = ImageWork::kGenerate;
  std::string model;  // may be empty when one model of pictures is served
  std::string prompt;
  std::string style;           // one that the model's config declares; empty: none
  std::string size = "auto";   // as the client wrote it
  int64_t candidates = 0;      // painted, of which the best are kept; 0 = as many as n
  int64_t partial_images = 0;  // of each picture, while rows fill
  bool return_scores = false;
  bool stream = false;
  PictureFormat format = PictureFormat::kPng;
  int quality = 90;       // of JPEG and WebP
  std::string image;      // a file to be changed or described
  std::string mask;       // what is transparent in it is painted anew; empty: that of `image`
  Parameters parameters;  // n, seed and what bears on sampling
};

// Sets one; null leaves the default. InvalidArgument names the field, its value and the limit. Of
// `image` and `mask` the value is base64, alone or in a data URL.
absl::Status SetImageField(std::string_view name, const nlohmann::json& value,
                           ImageRequest* request);
// Whether a form's text is this field's value as it is; else it is a number, or true or false.
bool IsImageText(std::string_view name);

}  // namespace qianyi
