// Reading fields of a config.json: each error names the field, its value and what is allowed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace qianyi {

// Collects the first error, so that a family reads all its fields and then checks status().
class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& config) : config_(config) {}

  // A whole number in [least, most]; required, or with a default when absent.
  int64_t Int(std::string_view field, int64_t least, int64_t most);
  int64_t Int(std::string_view field, int64_t least, int64_t most, int64_t absent);
  double Number(std::string_view field, double least, double most, double absent);
  bool Bool(std::string_view field, bool absent);
  // A token id, or a list of them, below `vocab_size`.
  std::vector<int32_t> Ids(std::string_view field, int64_t vocab_size, std::vector<int32_t> absent);
  // An id inside an object of ids, e.g. ("special_token_ids", "MASK").
  int32_t Id(std::string_view object, std::string_view field, int64_t vocab_size, int32_t absent);
  // The field, when present, must have this value: nothing else is supported.
  void MustBe(std::string_view field, const nlohmann::json& value);
  // For checks between fields.
  void Require(bool condition, std::string_view message);

  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(std::string_view field) const;
  void Fail(std::string_view field, const nlohmann::json& value, std::string_view allowed);

  const nlohmann::json& config_;
  absl::Status status_;
};

}  // namespace qianyi
