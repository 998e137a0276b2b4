#include "runtime/prompts/text_template.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace qianyi {
namespace {

bool IsPresent(const PromptFields& values, const std::string& name) {
  const auto at = values.find(name);
  return at != values.end() && !at->second.empty();
}

}  // namespace

absl::StatusOr<TextTemplate> TextTemplate::Parse(const nlohmann::json& parts,
                                                 std::string_view where,
                                                 const std::vector<std::string>& fields) {
  const nlohmann::json list = parts.is_string() ? nlohmann::json::array({parts}) : parts;
  const auto all_strings = [](const nlohmann::json& items) {
    return std::all_of(items.begin(), items.end(),
                       [](const auto& part) { return part.is_string(); });
  };
  if (!list.is_array() || list.empty() || !all_strings(list)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("config.json: %s must be a list of strings", where));
  }
  TextTemplate result;
  for (const nlohmann::json& part : list) {
    std::string text = part.get<std::string>();
    std::vector<Segment> segments;
    for (size_t at = 0; at < text.size();) {
      const size_t open = std::min(text.find('{', at), text.size());
      if (open > at) segments.push_back({text.substr(at, open - at)});
      if (open == text.size()) break;
      const size_t close = text.find('}', open);
      const std::string name =
          close == std::string::npos ? "" : text.substr(open + 1, close - open - 1);
      if (std::find(fields.begin(), fields.end(), name) == fields.end()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("config.json: %s has the place \"%s\"; known ones are {%s}", where,
                            text.substr(open), absl::StrJoin(fields, "}, {")));
      }
      segments.push_back({name, true});
      at = close + 1;
    }
    result.parts_.push_back(std::move(segments));
  }
  return result;
}

void TextTemplate::Fill(const PromptFields& values, std::vector<PromptPart>* out) const {
  for (const std::vector<Segment>& part : parts_) {
    const bool complete = std::all_of(part.begin(), part.end(), [&](const Segment& segment) {
      return !segment.is_field || IsPresent(values, segment.text);
    });
    if (!complete) continue;
    for (const Segment& segment : part) {
      if (segment.is_field) {
        out->push_back({values.find(segment.text)->second, /*commands=*/false});
      } else {
        out->push_back({segment.text, /*commands=*/true});
      }
    }
  }
}

}  // namespace qianyi
