#include "runtime/models/config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = absl::StrCat(text.substr(0, 57), "...");
  return text;
}

bool IsId(const nlohmann::json& value, int64_t vocab_size) {
  return value.is_number_integer() && value.get<int64_t>() >= 0 &&
         value.get<int64_t>() < vocab_size;
}

}  // namespace

const nlohmann::json* ConfigReader::Find(std::string_view field) const {
  const auto it = config_.find(std::string(field));
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

void ConfigReader::Fail(std::string_view field, const nlohmann::json& value,
                        std::string_view allowed) {
  status_.Update(absl::InvalidArgumentError(
      absl::StrFormat("config.json: %s is %s; it must be %s", field, Shown(value), allowed)));
}

int64_t ConfigReader::Int(std::string_view field, int64_t least, int64_t most) {
  if (Find(field) == nullptr) {
    status_.Update(absl::InvalidArgumentError(absl::StrFormat(
        "config.json: %s is missing; it must be a whole number %d..%d", field, least, most)));
    return least;
  }
  return Int(field, least, most, least);
}

int64_t ConfigReader::Int(std::string_view field, int64_t least, int64_t most, int64_t absent) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return absent;
  // A value above 2^63 would turn negative; is_number_unsigned catches it.
  const bool whole = value->is_number_integer();
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > (1ull << 62);
  if (!whole || huge || value->get<int64_t>() < least || value->get<int64_t>() > most) {
    Fail(field, *value, absl::StrCat("a whole number ", least, "..", most));
    return least;
  }
  return value->get<int64_t>();
}

double ConfigReader::Number(std::string_view field, double least, double most, double absent) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return absent;
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most)) {
    Fail(field, *value, absl::StrCat("a number ", least, "..", most));
    return absent;
  }
  return value->get<double>();
}

bool ConfigReader::Bool(std::string_view field, bool absent) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    Fail(field, *value, "true or false");
    return absent;
  }
  return value->get<bool>();
}

std::vector<int32_t> ConfigReader::Ids(std::string_view field, int64_t vocab_size,
                                       std::vector<int32_t> absent) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return absent;
  std::vector<int32_t> ids;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  for (const nlohmann::json& id : list) {
    if (!IsId(id, vocab_size) || ids.size() >= 1024) {
      Fail(field, *value,
           absl::StrCat("a token id or a list of at most 1024, each 0..", vocab_size - 1));
      return absent;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

int32_t ConfigReader::Id(std::string_view object, std::string_view field, int64_t vocab_size,
                         int32_t absent) {
  const nlohmann::json* ids = Find(object);
  if (ids == nullptr) return absent;
  if (!ids->is_object()) {
    Fail(object, *ids, "an object of token ids");
    return absent;
  }
  const auto it = ids->find(std::string(field));
  if (it == ids->end()) return absent;
  if (!IsId(*it, vocab_size)) {
    Fail(absl::StrFormat("%s.%s", object, field), *it,
         absl::StrCat("a token id 0..", vocab_size - 1));
    return absent;
  }
  return it->get<int32_t>();
}

void ConfigReader::MustBe(std::string_view field, const nlohmann::json& value) {
  const nlohmann::json* found = Find(field);
  if (found != nullptr && *found != value) Fail(field, *found, Shown(value));
}

void ConfigReader::Require(bool condition, std::string_view message) {
  if (!condition) {
    status_.Update(absl::InvalidArgumentError(absl::StrFormat("config.json: %s", message)));
  }
}

}  // namespace qianyi
