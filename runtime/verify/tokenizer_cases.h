// What the replays of all tokenizers share: reading a folder and comparing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/storage/safetensors.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/tokenizer.h"
#include "runtime/verify/report.h"

namespace qianyi {

using Ids = std::vector<int32_t>;

// A text tokenizer under one of a folder's command tables.
struct TokenizerVariant {
  std::string name;
  std::string slug;  // the name as part of a field: "block only" -> "block_only"
  std::unique_ptr<Tokenizer> tokenizer;
};

class TokenizerCases {
 public:
  // Reads config.json, cases.json and the header of cases.safetensors.
  static absl::StatusOr<TokenizerCases> Open(const std::string& folder, VerifyReport& report);

  const nlohmann::ordered_json& config() const { return config_; }
  const nlohmann::json& cases() const { return cases_; }
  // The list `name` of cases.json, empty when there is none.
  const nlohmann::json& List(const char* name) const;
  // The path of the file that a field of config.json names.
  absl::StatusOr<std::string> File(const char* field) const;
  // The tables of config.json[field], in the file's order; there must be at least one.
  absl::StatusOr<std::vector<TokenizerVariant>> Variants(
      const char* field, std::shared_ptr<const TextTokenizer> text) const;

  // Adds a line for one expected value of cases.json. The difference counts the items of a
  // list that differ; a value that is no list counts as one.
  void Compare(const std::string& name, const nlohmann::json& want,
               const absl::StatusOr<nlohmann::json>& got, const std::string& note = "");
  void Unknown(const std::string& name);

  // Add lines for the pairs of tensors that repeat lists of cases.json: BASE.flat or BASE.utf8,
  // and BASE.offsets. An item without a value fails.
  void IdTensors(const std::string& base, const std::vector<absl::StatusOr<Ids>>& items);
  void TextTensors(const std::string& base, const std::vector<absl::StatusOr<std::string>>& items);
  // UNKNOWN for every tensor that none of the above took.
  void RestOfTensors();

 private:
  TokenizerCases(VerifyReport& report, Safetensors tensors)
      : report_(&report), tensors_(std::move(tensors)) {}
  void CompareTensor(const std::string& name, const std::vector<int64_t>& got,
                     const absl::Status& status);

  VerifyReport* report_;
  std::string folder_;
  nlohmann::ordered_json config_;
  nlohmann::json cases_;
  Safetensors tensors_;
  std::vector<std::string> taken_;
};

// A case's field, or null: never throws, whatever the case is.
const nlohmann::json& FieldOf(const nlohmann::json& entry, const std::string& field);
// The text or ids of a case's field; InvalidArgument when it is absent or something else.
absl::StatusOr<std::string> TextOf(const nlohmann::json& entry, const char* field);
absl::StatusOr<Ids> IdsOf(const nlohmann::json& entry, const char* field);
std::string Hex(std::string_view bytes);

template <typename Value>
absl::StatusOr<nlohmann::json> ToJson(const absl::StatusOr<Value>& value) {
  if (!value.ok()) return value.status();
  return nlohmann::json(*value);
}

}  // namespace qianyi
