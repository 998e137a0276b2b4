#include "runtime/chat/chat_writer.h"

#include <cstddef>

#include "absl/strings/str_format.h"
#include "runtime/tokenizers/longest_word.h"

namespace qianyi {
namespace {

// What GLM-4.5 and later have as tokens of their own within a message.
const LongestWord& Words() {
  static const LongestWord words = [] {
    LongestWord made;
    for (const char* word : {"<think>", "</think>", "<tool_call>", "</tool_call>",
                             "<tool_response>", "</tool_response>", "<arg_key>", "</arg_key>",
                             "<arg_value>", "</arg_value>", "/nothink"}) {
      made.Add(word);
    }
    return made;
  }();
  return words;
}

}  // namespace

void ChatWriter::Text(std::string_view text) {
  if (!text.empty()) parts_.push_back({std::string(text), Kind::kText});
}

void ChatWriter::Literal(std::string_view text) {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = Words().Match(text.substr(at));
    if (bytes == 0) {
      ++at;
      continue;
    }
    Text(text.substr(begin, at - begin));
    parts_.push_back({std::string(text.substr(at, bytes)), Kind::kWord});
    at += bytes;
    begin = at;
  }
  Text(text.substr(begin));
}

absl::StatusOr<std::vector<int32_t>> ChatWriter::Encode(const Tokenizer& tokenizer) const {
  std::vector<int32_t> ids;
  std::string run;
  const auto end_run = [&]() -> absl::Status {
    if (run.empty()) return absl::OkStatus();
    const auto encoded = tokenizer.Encode(run, /*specials=*/false);
    if (!encoded.ok()) return encoded.status();
    ids.insert(ids.end(), encoded->begin(), encoded->end());
    run.clear();
    return absl::OkStatus();
  };
  for (const Part& part : parts_) {
    const bool is_word = part.kind == Kind::kWord || part.kind == Kind::kControl;
    const int32_t id = is_word ? tokenizer.WordId(part.text) : -1;
    if (id < 0 && part.kind == Kind::kControl) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the tokenizer has no token %s, which the model's chat format needs; set "
                          "\"chat\": {\"format\": …} in config.json if the format is another",
                          part.text));
    }
    if (id < 0 && part.kind != Kind::kBreak) {
      run += part.text;
      continue;
    }
    if (absl::Status status = end_run(); !status.ok()) return status;
    if (id >= 0) ids.push_back(id);
  }
  if (absl::Status status = end_run(); !status.ok()) return status;
  return ids;
}

std::string ChatWriter::ToText() const {
  std::string text;
  for (const Part& part : parts_) text += part.text;
  return text;
}

}  // namespace qianyi
