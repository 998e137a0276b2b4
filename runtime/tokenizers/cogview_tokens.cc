#include "runtime/tokenizers/cogview_tokens.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

constexpr std::string_view kRepeatedMask = "[MASK]*";
constexpr std::string_view kPicture = "[Image";

absl::StatusOr<int32_t> Count(const nlohmann::json& config, const char* field) {
  const auto at = config.is_object() ? config.find(field) : config.end();
  if (!config.is_object() || at == config.end() || !at->is_number_integer() ||
      at->get<uint64_t>() > kMaxTokenId) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", field, "\" must be an integer from 0 to ", kMaxTokenId));
  }
  return static_cast<int32_t>(at->get<uint64_t>());
}

std::optional<int32_t> ParseCount(std::string_view digits) {
  int32_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

}  // namespace

absl::StatusOr<CogViewTokens> CogViewTokens::Create(std::shared_ptr<const TextTokenizer> text,
                                                    const nlohmann::json& config) {
  CogViewTokens tokens;
  const absl::StatusOr<int32_t> images = Count(config, "num_image_tokens");
  if (!images.ok()) return images.status();
  const absl::StatusOr<int32_t> pieces = Count(config, "num_text_tokens");
  if (!pieces.ok()) return pieces.status();
  if (*pieces != text->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"num_text_tokens\" is ", *pieces, " but the tokenizer has ", text->size()));
  }
  const auto commands = config.find("command_tokens");
  if (commands == config.end() || !commands->is_object()) {
    return absl::InvalidArgumentError("\"command_tokens\" must be an object of words and ids");
  }
  for (const auto& [word, id] : commands->items()) {
    if (!id.is_number_integer() || id.get<uint64_t>() > kMaxTokenId ||
        id.get<int32_t>() < *images + *pieces || word.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("\"command_tokens\": the id of ", word,
                                                     " must be an integer from ", *images + *pieces,
                                                     " to ", kMaxTokenId));
    }
    tokens.command_ids_[word] = id.get<int32_t>();
    tokens.command_words_[id.get<int32_t>()] = word;
  }
  tokens.text_ = std::move(text);
  tokens.image_tokens_ = *images;
  tokens.text_tokens_ = *pieces;
  return tokens;
}

int32_t CogViewTokens::CommandId(std::string_view word) const {
  const auto at = command_ids_.find(std::string(word));
  return at == command_ids_.end() ? -1 : at->second;
}

absl::StatusOr<std::vector<int32_t>> CogViewTokens::EncodeText(std::string_view text) const {
  if (const size_t good = WellFormedPrefix(text); good != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not UTF-8 at byte ", good));
  }
  std::vector<int32_t> ids;
  if (absl::Status status = text_->Encode(text, &ids); !status.ok()) return status;
  for (int32_t& id : ids) id += image_tokens_;
  return ids;
}

bool CogViewTokens::IsQueryWord(std::string_view word) const {
  return CommandId(word) >= 0 || word.starts_with(kRepeatedMask) || word.starts_with(kPicture);
}

absl::Status CogViewTokens::AppendPicture(std::string_view word, const ReadPicture& read_picture,
                                          std::vector<int32_t>* ids) const {
  const size_t close = word.find(']');
  const std::string_view digits =
      close == std::string_view::npos ? "x" : word.substr(kPicture.size(), close - kPicture.size());
  const std::optional<int32_t> kept = digits.empty() ? kMaxQueryTokens : ParseCount(digits);
  if (!kept.has_value() || *kept < 0 || close + 1 == word.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is not [Image]PATH or [ImageN]PATH with a number N", word));
  }
  if (!read_picture) {
    return absl::InvalidArgumentError("a picture's path cannot be used in a query here");
  }
  absl::StatusOr<std::vector<int32_t>> codes = read_picture(std::string(word.substr(close + 1)));
  if (!codes.ok()) return codes.status();
  for (size_t i = static_cast<size_t>(*kept); i < codes->size(); ++i) (*codes)[i] = kGenerate;
  ids->insert(ids->end(), codes->begin(), codes->end());
  return absl::OkStatus();
}

absl::Status CogViewTokens::AppendWord(std::string_view word, const ReadPicture& read_picture,
                                       std::vector<int32_t>* ids) const {
  if (const int32_t id = CommandId(word); id >= 0) {
    ids->push_back(word == "[MASK]" ? kGenerate : id);
    return absl::OkStatus();
  }
  if (!word.starts_with(kRepeatedMask)) return AppendPicture(word, read_picture, ids);
  const std::optional<int32_t> count = ParseCount(word.substr(kRepeatedMask.size()));
  if (!count.has_value() || *count < 1 || *count > kMaxQueryTokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the number must be from 1 to %d", word, kMaxQueryTokens));
  }
  ids->insert(ids->end(), static_cast<size_t>(*count), kGenerate);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CogViewTokens::EncodeQuery(
    std::string_view query, const ReadPicture& read_picture) const {
  std::vector<int32_t> ids;
  size_t run_begin = 0;  // of the words that are text
  for (size_t begin = 0; begin <= query.size();) {
    const size_t end = std::min(query.find(' ', begin), query.size());
    const std::string_view word = query.substr(begin, end - begin);
    const bool is_query_word = IsQueryWord(word);
    const size_t run_end = is_query_word ? begin : end;
    // A run ends before the space that precedes a query word.
    if ((is_query_word && run_end > run_begin) || (!is_query_word && end == query.size())) {
      const size_t length = run_end - run_begin - (is_query_word ? 1 : 0);
      const absl::StatusOr<std::vector<int32_t>> run = EncodeText(query.substr(run_begin, length));
      if (!run.ok()) return run.status();
      ids.insert(ids.end(), run->begin(), run->end());
    }
    if (is_query_word) {
      if (absl::Status status = AppendWord(word, read_picture, &ids); !status.ok()) return status;
      run_begin = end + 1;
    }
    if (ids.size() > kMaxQueryTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("the query has more than ", kMaxQueryTokens, " tokens"));
    }
    begin = end + 1;
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> CogViewTokens::WrapCodes(std::span<const int32_t> codes,
                                                              int index) const {
  const char* size_word = codes.size() == 64     ? "[TINY]"
                          : codes.size() == 256  ? "[SMALL]"
                          : codes.size() == 1024 ? "[BASE]"
                          : codes.size() == 4096 ? "[BIG]"
                                                 : "";
  const int32_t size = CommandId(size_word);
  const int32_t begin = CommandId(absl::StrCat("[BOI", index, "]"));
  const int32_t end = CommandId(absl::StrCat("[EOI", index, "]"));
  if (size < 0 || begin < 0 || end < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(codes.size(), " codes as picture ", index,
                     " cannot be wrapped: 64, 256, 1024 or 4096 as picture 1 to 3 can"));
  }
  std::vector<int32_t> ids = {size, begin};
  ids.insert(ids.end(), codes.begin(), codes.end());
  ids.push_back(end);
  return ids;
}

std::string CogViewTokens::DecodeText(std::span<const int32_t> pieces) const {
  std::string bytes;
  bool run_start = true;
  for (const int32_t piece : pieces) bytes += text_->Bytes(piece, &run_start);
  std::string text;
  AppendRepaired(bytes, /*last=*/true, &text);
  return text;
}

absl::StatusOr<CogViewTokens::Decoded> CogViewTokens::Decode(std::span<const int32_t> ids) const {
  Decoded decoded;
  std::vector<int32_t> text;
  std::vector<int32_t> image;
  const auto flush_text = [&] {
    if (!text.empty()) decoded.text.push_back(DecodeText(text));
    text.clear();
  };
  const auto flush_image = [&] {
    if (!image.empty()) decoded.images.push_back(image);
    image.clear();
  };
  for (const int32_t id : ids) {
    if (const auto command = command_words_.find(id); command != command_words_.end()) {
      flush_text();
      if (command->second.starts_with("[EOI")) flush_image();
      decoded.text.push_back(command->second);
    } else if (id >= 0 && id < image_tokens_) {
      image.push_back(id);
    } else if (id >= image_tokens_ && id < image_tokens_ + text_tokens_) {
      text.push_back(id - image_tokens_);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("id ", id, " is not in the vocabulary"));
    }
  }
  flush_image();
  flush_text();
  return decoded;
}

}  // namespace qianyi
