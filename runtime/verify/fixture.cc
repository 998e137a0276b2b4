#include "runtime/verify/fixture.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <system_error>

#include "absl/strings/str_format.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/verify/model_cases.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxContextTokens = 1 << 20;

}  // namespace

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& list, const std::string& name) {
  std::vector<int32_t> ids;
  if (!list.is_array()) {
    return absl::InvalidArgumentError(absl::StrFormat("cases.json: %s is not a list of ids", name));
  }
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrFormat("cases.json: %s is not a list of ids", name));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<int64_t> Flatten(const Json& value) {
  if (value.is_number_integer()) return {value.get<int64_t>()};
  if (!value.is_array()) return {std::numeric_limits<int64_t>::min()};
  std::vector<int64_t> numbers;
  for (const Json& item : value) {
    const std::vector<int64_t> inner = Flatten(item);
    numbers.insert(numbers.end(), inner.begin(), inner.end());
  }
  return numbers;
}

Json FieldOf(const Json& object, const char* key) {
  return object.is_object() ? object.value(key, Json()) : Json();
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  constexpr double kDifferent = std::numeric_limits<double>::infinity();
  double most = a.size() == b.size() ? 0 : kDifferent;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(double{a[i]} - b[i]);
    most = std::max(most, std::isnan(difference) ? kDifferent : difference);
  }
  return most;
}

void Append(const Tensor& rows, std::vector<float>* out) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    out->insert(out->end(), rows.f32(r), rows.f32(r) + rows.cols);
  }
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "qianyi-verify-XXXXXX").string();
  if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

absl::Status TemporaryFolder::status() const {
  if (!path_.empty()) return absl::OkStatus();
  return absl::InternalError("cannot make a temporary folder; set TMPDIR to one that is writable");
}

absl::StatusOr<Json> ReadJson(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, 256 << 20);
  if (!text.ok()) return text.status();
  Json json = ParseJson(*text);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s is not a JSON object", path));
  }
  return json;
}

absl::StatusOr<LoadOptions> RoomFor(const Json& cases) {
  int64_t longest = 1;
  for (const Json& fields : cases) {
    if (!fields.is_object()) return absl::InvalidArgumentError("cases.json: a case is no object");
    int64_t tokens = 0;
    for (const char* key : {"input_ids", "context_ids", "prompt_ids", "greedy_tokens"}) {
      if (fields.contains(key)) tokens += static_cast<int64_t>(fields[key].size());
    }
    int64_t blanks = 1;
    for (const char* key : {"blanks", "steps"}) {
      if (fields.contains(key)) blanks = static_cast<int64_t>(fields[key].size());
    }
    const Json first = fields.value("steps", Json());
    if (first.is_array() && !first.empty()) {
      tokens += static_cast<int64_t>(FieldOf(first[0], "sequence").size()) + 2;
    }
    const int64_t asked =
        std::max(NumberOf(fields, "out_seq_length", 0), NumberOf(fields, "max_new_tokens", 0));
    const int64_t length = std::clamp<int64_t>(asked, 0, kMaxContextTokens);
    longest = std::max(longest, tokens + blanks * (length + 2));
  }
  LoadOptions options;
  options.context_tokens = std::min(longest, kMaxContextTokens);
  options.prompt_tokens = options.context_tokens;
  options.logit_rows = options.context_tokens;
  return options;
}

}  // namespace qianyi
