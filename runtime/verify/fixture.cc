#include "runtime/verify/fixture.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
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
    const int64_t blanks =
        fields.contains("blanks") ? static_cast<int64_t>(fields["blanks"].size()) : 1;
    const int64_t length =
        std::clamp<int64_t>(NumberOf(fields, "out_seq_length", 0), 0, kMaxContextTokens);
    longest = std::max(longest, tokens + blanks * (length + 2));
  }
  LoadOptions options;
  options.context_tokens = std::min(longest, kMaxContextTokens);
  options.prompt_tokens = options.context_tokens;
  options.logit_rows = options.context_tokens;
  return options;
}

}  // namespace qianyi
