#include "runtime/verify/tokenizer_cases.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/commands.h"
#include "runtime/tokenizers/locate_file.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxCasesBytes = 256ull << 20;

template <typename Json>
absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxCasesBytes);
  if (!text.ok()) return text.status();
  const bool deep = NestsTooDeep(*text);
  Json value = Json::parse(deep ? std::string_view() : std::string_view(*text), nullptr,
                           /*allow_exceptions=*/false);
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  }
  return value;
}

std::string Slug(const std::string& name) {
  std::string slug;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      slug += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!slug.empty() && slug.back() != '_') {
      slug += '_';
    }
  }
  return slug.substr(0, slug.find_last_not_of('_') + 1);
}

// Differing places, and the first of them.
template <typename List>
std::pair<size_t, std::optional<size_t>> Differences(const List& want, const List& got) {
  const size_t longest = std::max(want.size(), got.size());
  size_t count = 0;
  std::optional<size_t> first;
  for (size_t i = 0; i < longest; ++i) {
    if (i < want.size() && i < got.size() && want[i] == got[i]) continue;
    ++count;
    if (!first.has_value()) first = i;
  }
  return {count, first};
}

VerifyLine::Result ResultOf(double difference) {
  return difference == 0 ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
}

}  // namespace

absl::StatusOr<TokenizerCases> TokenizerCases::Open(const std::string& folder,
                                                    VerifyReport& report) {
  absl::StatusOr<nlohmann::ordered_json> config =
      ReadJsonObject<nlohmann::ordered_json>(JoinPath(folder, "config.json"));
  if (!config.ok()) return config.status();
  absl::StatusOr<nlohmann::json> cases =
      ReadJsonObject<nlohmann::json>(JoinPath(folder, "cases.json"));
  if (!cases.ok()) return cases.status();
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder, "cases.safetensors"));
  if (!tensors.ok()) return tensors.status();
  TokenizerCases opened(report, *std::move(tensors));
  opened.folder_ = folder;
  opened.config_ = *std::move(config);
  opened.cases_ = *std::move(cases);
  return opened;
}

const nlohmann::json& TokenizerCases::List(const char* name) const {
  static const nlohmann::json empty = nlohmann::json::array();
  const auto at = cases_.find(name);
  return at != cases_.end() && at->is_array() ? *at : empty;
}

absl::StatusOr<std::string> TokenizerCases::File(const char* field) const {
  const auto at = config_.find(field);
  const std::string config = JoinPath(folder_, "config.json");
  if (at == config_.end() || !at->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(config, ": \"", field, "\" must name a file"));
  }
  absl::StatusOr<std::string> path = LocateFile(folder_, at->get<std::string>());
  if (path.ok()) return path;
  return absl::Status(path.status().code(),
                      absl::StrCat(config, ": \"", field, "\": ", path.status().message()));
}

absl::StatusOr<std::vector<TokenizerVariant>> TokenizerCases::Variants(
    const char* field, std::shared_ptr<const TextTokenizer> text) const {
  const std::string where = absl::StrCat(JoinPath(folder_, "config.json"), ": \"", field, "\"");
  const auto tables = config_.find(field);
  if (tables == config_.end() || !tables->is_object() || tables->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(where, " must list command tables by name"));
  }
  std::vector<TokenizerVariant> variants;
  for (const auto& [name, table] : tables->items()) {
    const nlohmann::json list = table.is_object() && table.contains("commands")
                                    ? nlohmann::json(table["commands"])
                                    : nlohmann::json();
    absl::StatusOr<std::vector<CommandToken>> commands = ParseCommands(list);
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
        commands.ok() ? CommandTokenizer::Create(text, *std::move(commands)) : commands.status();
    if (!tokenizer.ok()) {
      return absl::Status(tokenizer.status().code(),
                          absl::StrCat(where, ": \"", name, "\": ", tokenizer.status().message()));
    }
    variants.push_back({name, Slug(name), *std::move(tokenizer)});
  }
  return variants;
}

void TokenizerCases::Compare(const std::string& name, const nlohmann::json& want,
                             const absl::StatusOr<nlohmann::json>& got, const std::string& note) {
  VerifyLine line;
  line.name = name;
  line.note = note;
  if (!got.ok()) {
    line.difference = want.is_array() ? static_cast<double>(want.size()) : 1;
    line.result = VerifyLine::Result::kFail;
    line.note = std::string(got.status().message());
  } else if (want.is_array() && got->is_array()) {
    const auto [count, first] = Differences(want, *got);
    line.difference = static_cast<double>(count);
    line.result = ResultOf(line.difference);
    if (first.has_value()) line.note = absl::StrCat("the first at ", *first);
  } else {
    line.difference = want == *got ? 0 : 1;
    line.result = ResultOf(line.difference);
  }
  report_->Add(std::move(line));
}

void TokenizerCases::Unknown(const std::string& name) {
  VerifyLine line;
  line.name = name;
  line.result = VerifyLine::Result::kUnknown;
  report_->Add(std::move(line));
}

void TokenizerCases::CompareTensor(const std::string& name, const std::vector<int64_t>& got,
                                   const absl::Status& status) {
  if (tensors_.Find(name) == nullptr) return;
  taken_.push_back(name);
  if (!report_->Wants(name)) return;
  VerifyLine line;
  line.name = name;
  const absl::StatusOr<std::vector<int64_t>> want = tensors_.ReadIntegers(name);
  if (!want.ok() || !status.ok()) {
    line.difference = std::numeric_limits<double>::infinity();
    line.result = VerifyLine::Result::kFail;
    line.note = std::string((want.ok() ? status : want.status()).message());
  } else {
    const auto [count, first] = Differences(*want, got);
    line.difference = static_cast<double>(count);
    line.result = ResultOf(line.difference);
    if (first.has_value()) line.note = absl::StrCat("the first at ", *first);
  }
  report_->Add(std::move(line));
}

void TokenizerCases::IdTensors(const std::string& base,
                               const std::vector<absl::StatusOr<Ids>>& items) {
  std::vector<int64_t> flat;
  std::vector<int64_t> offsets = {0};
  absl::Status status;
  for (const absl::StatusOr<Ids>& item : items) {
    if (!item.ok()) {
      status = item.status();
      continue;
    }
    flat.insert(flat.end(), item->begin(), item->end());
    offsets.push_back(static_cast<int64_t>(flat.size()));
  }
  CompareTensor(base + ".flat", flat, status);
  CompareTensor(base + ".offsets", offsets, status);
}

void TokenizerCases::TextTensors(const std::string& base,
                                 const std::vector<absl::StatusOr<std::string>>& items) {
  std::vector<int64_t> bytes;
  std::vector<int64_t> offsets = {0};
  absl::Status status;
  for (const absl::StatusOr<std::string>& item : items) {
    if (!item.ok()) {
      status = item.status();
      continue;
    }
    for (const char byte : *item) bytes.push_back(static_cast<uint8_t>(byte));
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
  CompareTensor(base + ".utf8", bytes, status);
  CompareTensor(base + ".offsets", offsets, status);
}

void TokenizerCases::RestOfTensors() {
  for (const SafetensorsEntry& entry : tensors_.entries()) {
    if (std::find(taken_.begin(), taken_.end(), entry.name) == taken_.end()) Unknown(entry.name);
  }
}

const nlohmann::json& FieldOf(const nlohmann::json& entry, const std::string& field) {
  static const nlohmann::json null;
  if (!entry.is_object()) return null;
  const auto at = entry.find(field);
  return at == entry.end() ? null : *at;
}

absl::StatusOr<std::string> TextOf(const nlohmann::json& entry, const char* field) {
  const nlohmann::json& text = FieldOf(entry, field);
  if (text.is_string()) return text.get<std::string>();
  return absl::InvalidArgumentError(absl::StrCat("the case has no text \"", field, "\""));
}

absl::StatusOr<Ids> IdsOf(const nlohmann::json& entry, const char* field) {
  const absl::Status bad =
      absl::InvalidArgumentError(absl::StrCat("the case has no list of ids \"", field, "\""));
  const nlohmann::json& list = FieldOf(entry, field);
  if (!list.is_array()) return bad;
  Ids ids;
  for (const nlohmann::json& id : list) {
    // Compared as a double, which no integer overflows.
    if (!id.is_number_integer() || std::abs(id.get<double>()) > 2147483647.0) return bad;
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::string Hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char byte : bytes) {
    hex += kDigits[static_cast<uint8_t>(byte) >> 4];
    hex += kDigits[static_cast<uint8_t>(byte) & 15];
  }
  return hex;
}

}  // namespace qianyi
