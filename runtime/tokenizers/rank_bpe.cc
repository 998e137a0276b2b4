#include "runtime/tokenizers/rank_bpe.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

// "YWI= 259". False when it is something else.
bool ParseLine(std::string_view line, std::string* token, int32_t* rank) {
  const size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos) return false;
  const absl::string_view base64(line.data(), space);
  const absl::string_view digits(line.data() + space + 1, line.size() - space - 1);
  return absl::Base64Unescape(base64, token) && !token->empty() && absl::SimpleAtoi(digits, rank);
}

std::string_view TakeLine(std::string_view* text) {
  const size_t end = std::min(text->find('\n'), text->size());
  std::string_view line = text->substr(0, end);
  text->remove_prefix(std::min(end + 1, text->size()));
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

absl::Status ParseTokens(std::string_view file, TokenTable* tokens) {
  for (int line_number = 1; !file.empty(); ++line_number) {
    const std::string_view line = TakeLine(&file);
    if (line.empty()) continue;
    std::string token;
    int32_t rank = 0;
    if (!ParseLine(line, &token, &rank)) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line_number, " is not a token in base64, a space and its rank"));
    }
    if (rank != tokens->size() || rank > kMaxTokenId) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "line %d has the rank %d; ranks count from 0, to at most %d, and the next is %d",
          line_number, rank, kMaxTokenId, tokens->size()));
    }
    if (token.size() > BytePairRanks::kMaxTokenBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d has a token of %d bytes; at most %d are allowed", line_number,
                          token.size(), BytePairRanks::kMaxTokenBytes));
    }
    tokens->Add(rank, token);
  }
  return absl::OkStatus();
}

absl::StatusOr<BytePairRanks> MakeRanks(const TokenTable& tokens) {
  BytePairRanks ranks;
  for (int32_t id = 0; id < tokens.size(); ++id) {
    if (ranks.Add(tokens.Bytes(id), id)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the tokens ", ranks.Find(tokens.Bytes(id)), " and ", id, " are the same"));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    ranks.byte_symbols[byte] = ranks.Find(std::string_view(&text, 1));
    if (ranks.byte_symbols[byte] >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("the byte 0x%02X is no token; a vocabulary of bytes has all", byte));
  }
  return ranks;
}

}  // namespace

bool LooksLikeRanks(std::string_view file) {
  std::string token;
  int32_t rank = 0;
  return ParseLine(TakeLine(&file), &token, &rank);
}

absl::StatusOr<std::unique_ptr<ByteLevelBpe>> ParseRanks(std::string_view file,
                                                         const std::string& name) {
  const auto named = [&name](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  };
  TokenTable tokens;
  if (absl::Status status = ParseTokens(file, &tokens); !status.ok()) return named(status);
  absl::StatusOr<BytePairRanks> ranks = MakeRanks(tokens);
  if (!ranks.ok()) return named(ranks.status());
  return std::make_unique<ByteLevelBpe>(std::move(tokens), *std::move(ranks), BytePairRanks(),
                                        WordPattern::kGlm4);
}

std::vector<AddedToken> Glm4SpecialTokens(int32_t first_id) {
  std::vector<AddedToken> tokens;
  for (const char* word :
       {"<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
        "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>",
        "<|begin_of_video|>", "<|end_of_video|>"}) {
    tokens.push_back({.word = word, .id = first_id++});
  }
  return tokens;
}

}  // namespace qianyi
