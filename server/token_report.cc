#include "server/token_report.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; });
}

}  // namespace

std::string ShownToken(const TokenReport::Alternative& token) {
  if (token.bytes.empty()) return absl::StrCat("token_id:", token.id);
  std::string text;
  AppendRepaired(token.bytes, /*last=*/true, &text);
  return text;
}

std::string TokenKey(const TokenReport::Alternative& token) {
  if (WellFormedPrefix(token.bytes) == token.bytes.size()) return ShownToken(token);
  std::string key = "bytes:";
  for (const char byte : token.bytes) {
    absl::StrAppendFormat(&key, "\\x%02x", static_cast<uint8_t>(byte));
  }
  return key;
}

void TokenReporter::Add(const SampledToken& token) {
  TokenReport report;
  for (const TokenLogprob& other : token.top) {
    bool run_start = run_start_;
    report.top.push_back(
        {other.token, std::string(tokenizer_.NextBytes(other.token, &run_start)), other.logprob});
  }
  report.taken = {token.token, std::string(tokenizer_.NextBytes(token.token, &run_start_)),
                  token.logprob};
  report.offset = characters_;
  bytes_ += report.taken.bytes;
  text_.clear();
  bytes_.erase(0, AppendRepaired(bytes_, /*last=*/false, &text_));
  characters_ += CountCharacters(text_);
  held_.push_back(std::move(report));
}

std::vector<TokenReport> TokenReporter::Take(std::string_view text) {
  handed_on_ += CountCharacters(text);
  const auto end = std::find_if(held_.begin(), held_.end(), [this](const TokenReport& report) {
    return report.offset >= handed_on_;
  });
  std::vector<TokenReport> taken(std::make_move_iterator(held_.begin()),
                                 std::make_move_iterator(end));
  held_.erase(held_.begin(), end);
  return taken;
}

std::vector<TokenReport> TokenReporter::TakeRest() { return std::exchange(held_, {}); }

}  // namespace qianyi
