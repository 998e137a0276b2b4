#include "runtime/tokenizers/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

constexpr size_t kMaxAddedTokens = 1 << 16;

bool IsSpace(char32_t character) { return u_isUWhiteSpace(static_cast<UChar32>(character)); }

// \w of Unicode's regular expressions (UTS 18, annex C).
bool IsWord(char32_t character) {
  const UChar32 c = static_cast<UChar32>(character);
  constexpr uint32_t kCategories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || (U_GET_GC_MASK(c) & kCategories) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

size_t LastCharacterBegin(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool EndsInWord(std::string_view text) {
  return !text.empty() && IsWord(FirstCharacter(text.substr(LastCharacterBegin(text))));
}
bool BeginsWithWord(std::string_view text) { return !text.empty() && IsWord(FirstCharacter(text)); }

size_t TrailingSpace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = LastCharacterBegin(text.substr(0, end));
    if (!IsSpace(FirstCharacter(text.substr(begin)))) break;
    end = begin;
  }
  return text.size() - end;
}

size_t LeadingSpace(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && IsSpace(FirstCharacter(text.substr(at)))) {
    at += StepUtf8(text.substr(at)).bytes;
  }
  return at;
}

// What GLM's tokenizers call the tokens that models ask for by role.
constexpr std::pair<std::string_view, std::string_view> kRoles[] = {
    {"MASK", "[MASK]"},
    {"gMASK", "[gMASK]"},
    {"sMASK", "[sMASK]"},
    {"sop", "<sop>"},
    {"sop", "sop"},
    {"eop", "<eop>"},
    {"eop", "eop"},
    {"eos", "<|endoftext|>"},
    {"eos", "</s>"},
    {"pad", "<|endoftext|>"},
    {"pad", "<pad>"},
    {"system", "<|system|>"},
    {"user", "<|user|>"},
    {"assistant", "<|assistant|>"},
    {"observation", "<|observation|>"}};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> AddedTokenTokenizer::Create(
    std::shared_ptr<const TextTokenizer> text, std::vector<AddedToken> added) {
  if (added.size() > kMaxAddedTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", added.size(), " added tokens; at most ", kMaxAddedTokens, " are allowed"));
  }
  for (const AddedToken& token : added) {
    if (absl::Status status = CheckWord("added token", token.word, token.id); !status.ok()) {
      return status;
    }
  }
  return std::unique_ptr<Tokenizer>(new AddedTokenTokenizer(std::move(text), std::move(added)));
}

AddedTokenTokenizer::AddedTokenTokenizer(std::shared_ptr<const TextTokenizer> text,
                                         std::vector<AddedToken> added)
    : WordTokenizer(std::move(text)), added_(std::move(added)) {
  for (const AddedToken& token : added_) {
    by_word_[token.word] = &token;
    AddWord(token.word, token.id);
    if (token.acts) (token.normalized ? normalized_words_ : first_words_).Add(token.word);
  }
}

// White space taken along is in no piece.
void AddedTokenTokenizer::Cut(std::string_view text, const LongestWord& words,
                              std::vector<Piece>* pieces) const {
  size_t begin = 0;  // of the piece
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = words.Match(text.substr(at));
    if (bytes == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = *by_word_.find(text.substr(at, bytes))->second;
    size_t end = at + bytes;
    const size_t next = end;
    const bool in_word = EndsInWord(text.substr(0, at)) || BeginsWithWord(text.substr(end));
    if (!(token.single_word && in_word)) {
      size_t start = std::max(at, begin);
      if (token.strips_left) start -= TrailingSpace(text.substr(begin, start - begin));
      if (token.strips_right) end += LeadingSpace(text.substr(end));
      if (start > begin) pieces->push_back({text.substr(begin, start - begin), nullptr});
      pieces->push_back({text.substr(at, bytes), &token});
      begin = end;
    }
    at = next;
  }
  if (begin < text.size()) pieces->push_back({text.substr(begin), nullptr});
}

absl::Status AddedTokenTokenizer::EncodeWithWords(std::string_view text,
                                                  std::vector<int32_t>* ids) const {
  std::vector<Piece> first, pieces;
  Cut(text, first_words_, &first);
  for (const Piece& piece : first) {
    if (piece.token != nullptr) {
      pieces.push_back(piece);
    } else {
      Cut(piece.text, normalized_words_, &pieces);
    }
  }
  for (const Piece& piece : pieces) {
    if (piece.token != nullptr) {
      ids->push_back(piece.token->id);
    } else if (absl::Status status = plain().Encode(piece.text, ids); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

int32_t AddedTokenTokenizer::CommandId(std::string_view role) const {
  for (const auto& [name, word] : kRoles) {
    if (name != role) continue;
    if (const int32_t id = WordId(word); id >= 0) return id;
  }
  return -1;
}

}  // namespace qianyi
