#include "runtime/tokenizers/word_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {

absl::Status CheckWord(std::string_view what, std::string_view word, int64_t id) {
  if (word.empty() || WellFormedPrefix(word) != word.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), " of id ", id, " has no word, or one that is not UTF-8"));
  }
  if (id < 0 || id > kMaxTokenId) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(what), " ", std::string(word),
                                                   " has the id ", id, "; ids are 0 to ",
                                                   kMaxTokenId));
  }
  return absl::OkStatus();
}

WordTokenizer::WordTokenizer(std::shared_ptr<const TextTokenizer> text)
    : text_(std::move(text)), vocab_size_(text_->size()) {}

void WordTokenizer::AddWord(std::string_view word, int32_t id) {
  id_of_word_[word] = id;
  word_of_id_[id] = word;
  vocab_size_ = std::max(vocab_size_, id + 1);
}

absl::StatusOr<std::vector<int32_t>> WordTokenizer::Encode(std::string_view text,
                                                           bool specials) const {
  if (const size_t good = WellFormedPrefix(text); good != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not UTF-8 at byte ", good));
  }
  std::vector<int32_t> ids;
  const absl::Status status = specials ? EncodeWithWords(text, &ids) : text_->Encode(text, &ids);
  if (!status.ok()) return status;
  return ids;
}

absl::StatusOr<std::string> WordTokenizer::Decode(std::span<const int32_t> ids) const {
  std::string bytes;
  bool run_start = true;
  for (const int32_t id : ids) {
    if (word_of_id_.count(id) == 0 && !text_->Contains(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", id, " is not in the vocabulary of ", vocab_size_, " tokens"));
    }
    bytes += NextBytes(id, &run_start);
  }
  std::string text;
  text.reserve(bytes.size());
  AppendRepaired(bytes, /*last=*/true, &text);
  return text;
}

std::string_view WordTokenizer::TokenBytes(int32_t id) const {
  bool run_start = false;
  return NextBytes(id, &run_start);
}

std::string_view WordTokenizer::NextBytes(int32_t id, bool* run_start) const {
  if (const auto at = word_of_id_.find(id); at != word_of_id_.end()) {
    *run_start = true;
    return at->second;
  }
  return text_->Bytes(id, run_start);
}

int32_t WordTokenizer::WordId(std::string_view word) const {
  const auto at = id_of_word_.find(word);
  return at == id_of_word_.end() ? -1 : at->second;
}

}  // namespace qianyi
