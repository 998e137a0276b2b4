#include "server/http/rest_image_body.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "server/error.h"
#include "server/http/multipart.h"

namespace qianyi {
namespace {

using nlohmann::json;

absl::Status ReadForm(std::string_view content_type, std::string_view body, ImageRequest* image) {
  absl::StatusOr<std::vector<FormPart>> parts = ParseMultipart(content_type, body);
  if (!parts.ok()) return parts.status();
  for (const FormPart& part : *parts) {
    const std::string name(absl::StripSuffix(part.name, "[]"));  // a list, of one
    if (name == "image" || name == "mask") {
      std::string& file = name == "image" ? image->image : image->mask;
      if (!file.empty()) {
        return BadParam(name, absl::StrCat(name, " is there twice; send one file"));
      }
      file = std::string(part.body);
      if (file.empty()) return BadParam(name, absl::StrCat(name, " is an empty file"));
      continue;
    }
    json value = std::string(part.body);
    if (!IsImageText(name)) {
      json number = ParseJson(part.body);
      if (number.is_number() || number.is_boolean()) value = std::move(number);
    }
    if (absl::Status status = SetImageField(name, value, image); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageRequest> ParseImage(ImageWork work, std::string_view content_type,
                                        std::string_view text) {
  ImageRequest image;
  image.work = work;
  if (IsMultipart(content_type)) {
    if (absl::Status status = ReadForm(content_type, text, &image); !status.ok()) return status;
    return image;
  }
  const json body = ParseJson(text);
  if (body.is_discarded() || !body.is_object()) {
    return absl::InvalidArgumentError(
        "the body is neither a JSON object in valid UTF-8 nor multipart/form-data; check quotes, "
        "encoding and Content-Type");
  }
  for (const auto& [name, value] : body.items()) {
    if (absl::Status status = SetImageField(name, value, &image); !status.ok()) return status;
  }
  return image;
}

}  // namespace qianyi
