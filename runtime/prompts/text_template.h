// Prompts as data: a list of parts with places for named fields.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model.h"

namespace qianyi {

// What a request says, by field name. An empty value is the same as an absent one.
using PromptFields = std::map<std::string, std::string, std::less<>>;

// Parts such as "《{title}》" and "：[gMASK]". A part is dropped when a field it names is absent;
// the others follow each other. Command words act in a part's own text, never in a field's.
// Immutable.
class TextTemplate {
 public:
  // InvalidArgument, naming `where`, unless `parts` is a list of strings (or one string) whose
  // braces enclose names out of `fields`.
  static absl::StatusOr<TextTemplate> Parse(const nlohmann::json& parts, std::string_view where,
                                            const std::vector<std::string>& fields);

  // Appends to `out`, whose views live as long as this and `values`.
  void Fill(const PromptFields& values, std::vector<PromptPart>* out) const;

 private:
  struct Segment {
    std::string text;  // literal, or the field's name
    bool is_field = false;
  };
  std::vector<std::vector<Segment>> parts_;
};

}  // namespace qianyi
