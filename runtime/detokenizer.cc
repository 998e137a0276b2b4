#include "runtime/detokenizer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {

bool Detokenizer::Matcher::Step(char byte) {
  while (matched > 0 && word[matched] != byte) matched = fallback[matched];
  if (word[matched] == byte) ++matched;
  return matched == word.size();
}

Detokenizer::Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : tokenizer_(tokenizer) {
  for (std::string& stop : stops) {
    Matcher matcher;
    if (WellFormedPrefix(stop) == stop.size()) matcher.word = std::move(stop);
    const std::string& word = matcher.word;
    matcher.fallback.assign(word.size() + 1, 0);
    for (size_t n = 1; n < word.size(); ++n) {
      uint32_t shorter = matcher.fallback[n];
      while (shorter > 0 && word[shorter] != word[n]) shorter = matcher.fallback[shorter];
      matcher.fallback[n + 1] = shorter + (word[shorter] == word[n] ? 1 : 0);
    }
    matchers_.push_back(std::move(matcher));
  }
}

void Detokenizer::Append(int32_t id, std::string* out) {
  if (stopped()) return;
  bytes_ += tokenizer_.NextBytes(id, &run_start_);
  Take(/*last=*/false, out);
}

void Detokenizer::Finish(std::string* out) {
  if (stopped()) return;
  Take(/*last=*/true, out);
  if (stopped()) return;
  out->append(held_, held_begin_);
  held_.clear();
  held_begin_ = 0;
}

// Moves whole characters from bytes_ on.
void Detokenizer::Take(bool last, std::string* out) {
  text_.clear();
  bytes_.erase(0, AppendRepaired(bytes_, last, &text_));
  if (matchers_.empty()) {
    out->append(text_);
  } else {
    Search(text_, out);
  }
}

void Detokenizer::Search(std::string_view text, std::string* out) {
  for (const char byte : text) {
    held_ += byte;
    for (size_t i = 0; i < matchers_.size(); ++i) {
      Matcher& matcher = matchers_[i];
      if (matcher.word.empty() || !matcher.Step(byte)) continue;
      if (!stopped() ||
          matcher.word.size() > matchers_[static_cast<size_t>(stop_index_)].word.size()) {
        stop_index_ = static_cast<int>(i);
      }
    }
    if (!stopped()) continue;
    const size_t stop_bytes = matchers_[static_cast<size_t>(stop_index_)].word.size();
    out->append(held_, held_begin_, held_.size() - stop_bytes - held_begin_);
    return;
  }
  size_t kept = 0;  // every shorter match lies within the longest one
  for (const Matcher& matcher : matchers_) kept = std::max<size_t>(kept, matcher.matched);
  const size_t certain = held_.size() - held_begin_ - kept;
  out->append(held_, held_begin_, certain);
  held_begin_ += certain;
  // Moving the rest to the front only now and then keeps this linear.
  if (held_begin_ * 2 > held_.size()) {
    held_.erase(0, held_begin_);
    held_begin_ = 0;
  }
}

}  // namespace qianyi
