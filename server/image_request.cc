#include "server/image_request.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr int64_t kMostCandidates = 128;
constexpr int64_t kMostPartialsEach = 64;

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = absl::StrCat(text.substr(0, 57), "...");
  return text;
}

absl::Status Refuse(std::string_view name, const json& value, std::string_view allowed) {
  return BadParam(name, absl::StrFormat("%s is %s; it must be %s", name, Shown(value), allowed));
}

absl::Status SetText(std::string_view name, const json& value, std::string* to) {
  if (!value.is_string()) return Refuse(name, value, "a string");
  *to = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status SetWhole(std::string_view name, const json& value, int64_t least, int64_t most,
                      int64_t* to) {
  const bool whole =
      value.is_number_integer() ||
      (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>() &&
       std::abs(value.get<double>()) < 9e15);
  const double number = whole ? value.get<double>() : -1;
  if (!whole || number < static_cast<double>(least) || number > static_cast<double>(most)) {
    return Refuse(name, value, absl::StrFormat("a whole number %d..%d", least, most));
  }
  *to = static_cast<int64_t>(number);
  return absl::OkStatus();
}

absl::Status SetFlag(std::string_view name, const json& value, bool* to) {
  if (!value.is_boolean()) return Refuse(name, value, "true or false");
  *to = value.get<bool>();
  return absl::OkStatus();
}

// What OpenAI's API lets a client choose and where there is no choice here.
absl::Status CheckOneOf(std::string_view name, const json& value,
                        const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
  return Refuse(name, value, absl::StrCat(absl::StrJoin(allowed, " or "), ", or left out"));
}

// "data:image/png;base64,…" or the base64 alone; {"image_url": …} and a list of one are the same.
absl::Status SetFile(std::string_view name, const json& value, std::string* to) {
  if (value.is_array() && value.size() == 1) return SetFile(name, value[0], to);
  if (value.is_object() && value.size() == 1 && value.contains("image_url")) {
    return SetFile(name, value["image_url"], to);
  }
  const std::string allowed = absl::StrFormat("one %s file in base64, alone or in a data URL",
                                              name == "mask" ? "PNG or WebP" : "PNG, JPEG or WebP");
  if (!value.is_string()) return Refuse(name, value, allowed);
  std::string_view text = value.get_ref<const std::string&>();
  if (text.substr(0, 5) == "data:") {
    const size_t comma = text.find(',');
    if (comma == text.npos || text.substr(0, comma).find(";base64") == text.npos) {
      return Refuse(name, value, allowed);
    }
    text.remove_prefix(comma + 1);
  }
  if (!text.empty() && absl::Base64Unescape(absl::string_view(text.data(), text.size()), to))
    return absl::OkStatus();
  return Refuse(name, value, allowed);
}

// Any JSON: the model decides, and a number may be meant as a side.
absl::Status SetSize(const json& value, ImageRequest* request) {
  request->size = value.is_string() ? value.get<std::string>().substr(0, 60) : Shown(value);
  return absl::OkStatus();
}

absl::Status SetFormat(const json& value, ImageRequest* request) {
  const absl::StatusOr<PictureFormat> format =
      ParsePictureFormat(value.is_string() ? value.get<std::string>() : "");
  if (!format.ok()) return Refuse("output_format", value, "png, jpeg or webp");
  request->format = *format;
  return absl::OkStatus();
}

absl::Status SetQuality(const json& value, ImageRequest* request) {
  int64_t quality = 0;
  absl::Status status = SetWhole("output_compression", value, 0, 100, &quality);
  request->quality = static_cast<int>(std::max<int64_t>(1, quality));
  return status;
}

struct Field {
  const char* name;
  bool text;  // of a form as it is
  std::function<absl::Status(const json&, ImageRequest*)> set;
};

Field Text(const char* name, std::string ImageRequest::*to) {
  return {name, true, [=](const json& value, ImageRequest* request) {
            return SetText(name, value, &(request->*to));
          }};
}
Field File(const char* name, std::string ImageRequest::*to) {
  return {name, true, [=](const json& value, ImageRequest* request) {
            return SetFile(name, value, &(request->*to));
          }};
}
Field Flag(const char* name, bool ImageRequest::*to) {
  return {name, false, [=](const json& value, ImageRequest* request) {
            return SetFlag(name, value, &(request->*to));
          }};
}
Field Whole(const char* name, int64_t least, int64_t most, int64_t ImageRequest::*to) {
  return {name, false, [=](const json& value, ImageRequest* request) {
            return SetWhole(name, value, least, most, &(request->*to));
          }};
}
Field OneOf(const char* name, std::vector<std::string> allowed) {
  return {name, true,
          [=](const json& value, ImageRequest*) { return CheckOneOf(name, value, allowed); }};
}
Field Ignored(const char* name) {
  return {name, true, [](const json&, ImageRequest*) { return absl::OkStatus(); }};
}

const std::vector<Field>& Fields() {
  static const std::vector<Field> table = {
      Text("model", &ImageRequest::model),
      Text("prompt", &ImageRequest::prompt),
      Text("style", &ImageRequest::style),
      File("image", &ImageRequest::image),
      File("images", &ImageRequest::image),
      File("mask", &ImageRequest::mask),
      Flag("stream", &ImageRequest::stream),
      Flag("return_scores", &ImageRequest::return_scores),
      Whole("candidates", 1, kMostCandidates, &ImageRequest::candidates),
      Whole("partial_images", 0, kMostPartialsEach, &ImageRequest::partial_images),
      {"size", true, SetSize},
      {"output_format", true, SetFormat},
      {"output_compression", false, SetQuality},
      OneOf("response_format", {"b64_json"}),
      OneOf("background", {"auto", "opaque"}),
      // One kind of picture is painted here, and nothing is moderated.
      OneOf("quality", {"auto", "standard", "hd", "low", "medium", "high"}),
      OneOf("input_fidelity", {"low", "high"}),
      OneOf("moderation", {"auto", "low"}),
      Ignored("user"),
      Ignored("metadata"),
      Ignored("safety_identifier"),
  };
  return table;
}

// Of the parameters of text those that mean something for codes.
bool BearsOnPictures(std::string_view name) {
  for (const char* known : {"n", "seed", "temperature", "top_k", "top_p", "min_p"}) {
    if (name == known) return true;
  }
  return false;
}

}  // namespace

bool IsImageText(std::string_view name) {
  return std::any_of(Fields().begin(), Fields().end(),
                     [&](const Field& field) { return field.name == name && field.text; });
}

absl::Status SetImageField(std::string_view name, const json& value, ImageRequest* request) {
  if (value.is_null()) return absl::OkStatus();
  for (const Field& field : Fields()) {
    if (field.name == name) return field.set(value, request);
  }
  if (BearsOnPictures(name)) return SetParameter(name, value, &request->parameters);
  const std::string_view shown = name.substr(0, 100);
  return BadParam(shown, absl::StrFormat("%s is not supported for pictures; remove it", shown));
}

}  // namespace qianyi
