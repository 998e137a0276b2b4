#include "runtime/pictures/picture_config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/models/config.h"
#include "runtime/parse_json.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr std::string_view kCommandWords[] = {
    "[PAD]",  "[BOI1]", "[BOI2]", "[BOI3]", "[EOI1]", "[EOI2]", "[EOI3]",  "[ROI1]", "[ROI2]",
    "[ROI3]", "[SEP]",  "[MASK]", "[CLS]",  "[ENC]",  "[TINY]", "[SMALL]", "[BASE]", "[BIG]",
    "[POS0]", "[POS1]", "[POS2]", "[POS3]", "[POS4]", "[POS5]", "[POS6]",  "[POS7]", "[POS8]"};
constexpr int64_t kVocabMultiple = 128;
constexpr size_t kMaxStyles = 64;
constexpr size_t kMaxStyleBytes = 256;

absl::Status Wrong(std::string_view field, std::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrFormat("config.json: %s must be %s", field, allowed));
}

absl::Status ReadCommands(const json& config, PictureConfig* out) {
  int32_t next = out->image_tokens + out->text_tokens;
  for (const std::string_view word : kCommandWords) out->commands.emplace(word, next++);
  const auto given = config.find("command_tokens");
  if (given == config.end() || given->is_null()) return absl::OkStatus();
  if (!given->is_object()) return Wrong("command_tokens", "an object of words and ids");
  for (const auto& [word, id] : given->items()) {
    const auto known = out->commands.find(word);
    if (known == out->commands.end()) continue;
    if (!id.is_number_integer() || id.get<int64_t>() < out->image_tokens + out->text_tokens ||
        id.get<int64_t>() >= out->vocab_size) {
      return Wrong(absl::StrFormat("command_tokens[\"%s\"]", word),
                   absl::StrFormat("an id %d..%d, behind codes and text",
                                   out->image_tokens + out->text_tokens, out->vocab_size - 1));
    }
    known->second = id.get<int32_t>();
  }
  return absl::OkStatus();
}

absl::Status ReadStyles(const json& config, PictureConfig* out) {
  const auto given = config.find("styles");
  if (given == config.end() || given->is_null()) return absl::OkStatus();
  const absl::Status wrong =
      Wrong("styles", absl::StrFormat("an object of at most %d names and their suffixes, each at "
                                      "most %d bytes",
                                      kMaxStyles, kMaxStyleBytes));
  if (!given->is_object() || given->size() > kMaxStyles) return wrong;
  for (const auto& [name, suffix] : given->items()) {
    if (name.empty() || name.size() > kMaxStyleBytes || !suffix.is_string() ||
        suffix.get_ref<const std::string&>().size() > kMaxStyleBytes) {
      return wrong;
    }
    out->styles.emplace_back(name, suffix.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadRoles(const json& config, PictureConfig* out) {
  const auto given = config.find("roles");
  if (given == config.end() || given->is_null()) return absl::OkStatus();
  out->paints = out->captions = out->magnifies = false;
  const absl::Status wrong = Wrong("roles", "a list of some of paint, caption and magnify");
  if (!given->is_array() || given->empty()) return wrong;
  for (const json& role : *given) {
    if (role == "paint") {
      out->paints = true;
    } else if (role == "caption") {
      out->captions = true;
    } else if (role == "magnify") {
      out->magnifies = true;
    } else {
      return wrong;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(const json& config, PictureConfig* out) {
  const auto given = config.find("sampling");
  if (given == config.end() || given->is_null()) return absl::OkStatus();
  if (!given->is_object()) return Wrong("sampling", "an object with top_k and temperature");
  ConfigReader reader(*given);
  out->top_k = static_cast<int32_t>(reader.Int("top_k", 0, 1 << 24, out->top_k));
  out->temperature = static_cast<float>(reader.Number("temperature", 0, 100, out->temperature));
  return reader.status();
}

}  // namespace

absl::StatusOr<PictureConfig> PictureConfig::Read(const json& config) {
  PictureConfig out;
  ConfigReader reader(config);
  const auto number = [&](const char* field, int64_t least, int64_t most, int64_t absent) {
    return static_cast<int32_t>(reader.Int(field, least, most, absent));
  };
  out.image_tokens = number("num_image_tokens", 1, 1 << 20, out.image_tokens);
  out.text_tokens = number("num_text_tokens", 1, 1 << 22, out.text_tokens);
  const int64_t tokens = int64_t{out.image_tokens} + out.text_tokens + std::size(kCommandWords);
  const int64_t padded = (tokens + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
  out.vocab_size = number("vocab_size", 1, 1 << 24, padded);
  out.positions = reader.Int("max_position_embeddings", 1, 1 << 20, out.positions);
  out.grid = number("grid", 1, kMaxGrid, out.grid);
  out.caption_tokens = number("caption_tokens", 1, 1 << 16, out.caption_tokens);
  out.size_word = out.grid == 8    ? "[TINY]"
                  : out.grid == 16 ? "[SMALL]"
                  : out.grid == 64 ? "[BIG]"
                                   : "[BASE]";
  out.caption_end_ids = reader.Ids("caption_end_ids", out.vocab_size, {});
  reader.Require(out.vocab_size >= tokens,
                 absl::StrFormat("vocab_size is %d; %d image codes, %d pieces of text and the "
                                 "command words need at least %d",
                                 out.vocab_size, out.image_tokens, out.text_tokens, tokens));
  if (!reader.status().ok()) return reader.status();
  for (const auto read : {ReadCommands, ReadStyles, ReadRoles, ReadSampling}) {
    if (absl::Status status = read(config, &out); !status.ok()) return status;
  }
  if (const auto word = config.find("size_token"); word != config.end() && !word->is_null()) {
    if (!word->is_string() || !out.commands.contains(word->get<std::string>())) {
      return Wrong("size_token", "a command word, such as [BASE]");
    }
    out.size_word = word->get<std::string>();
  }
  return out;
}

absl::StatusOr<std::string> PictureConfig::StyleSuffix(std::string_view name) const {
  if (name.empty()) return "";
  std::string known;
  for (const auto& [style, suffix] : styles) {
    if (style == name) return suffix;
    absl::StrAppend(&known, known.empty() ? "" : ", ", style);
  }
  return absl::InvalidArgumentError(
      known.empty() ? absl::StrFormat("style is '%s'; this model has no styles", name)
                    : absl::StrFormat("style is '%s'; this model has %s", name, known));
}

absl::StatusOr<std::optional<PictureConfig>> PictureConfigOf(const ModelSpec& spec) {
  if (spec.family != "cogview") return std::optional<PictureConfig>();
  absl::StatusOr<PictureConfig> config = PictureConfig::Read(ParseJson(spec.config_json));
  if (!config.ok()) return config.status();
  return std::optional<PictureConfig>(*std::move(config));
}

}  // namespace qianyi
