// Text that a parser has received and not yet let go.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace qianyi {

inline constexpr std::string_view kAsciiSpace = " \t\r\n\v\f";

class HeldText {
 public:
  void Append(std::string_view text) { text_ += text; }
  std::string_view view() const { return std::string_view(text_).substr(begin_); }
  bool empty() const { return begin_ == text_.size(); }

  // Lets the first `bytes` go. Moving the rest to the front only now and then keeps this linear.
  void Drop(size_t bytes) {
    begin_ += bytes;
    searched_ -= std::min(searched_, bytes);
    spaces_ -= std::min(spaces_, bytes);
    if (begin_ * 2 <= text_.size()) return;
    text_.erase(0, begin_);
    begin_ = 0;
  }
  // Where `word` is first, or npos. Between two calls the word stays the same, and what was
  // searched is not searched again, unless Forget was called.
  size_t Find(std::string_view word) {
    const size_t at = view().find(word, searched_);
    if (at == std::string_view::npos) {
      searched_ = view().size() - std::min(view().size(), word.size() - 1);
    }
    return at;
  }
  void Forget() { searched_ = 0; }
  // How many bytes at the end may be the beginning of `word`.
  size_t PartialEnd(std::string_view word) const {
    const std::string_view text = view();
    for (size_t bytes = std::min(word.size() - 1, text.size()); bytes > 0; --bytes) {
      if (word.starts_with(text.substr(text.size() - bytes))) return bytes;
    }
    return 0;
  }
  // Bytes of white space before `end`. What is all white space is not looked at again.
  size_t TrailingSpace(size_t end) {
    size_t begin = end;
    while (begin > spaces_ && kAsciiSpace.find(view()[begin - 1]) != std::string_view::npos) {
      --begin;
    }
    if (begin > spaces_) return end - begin;
    spaces_ = std::max(spaces_, end);
    return end;
  }

 private:
  std::string text_;
  size_t begin_ = 0;
  size_t searched_ = 0;  // of view()
  size_t spaces_ = 0;    // so many bytes at the beginning of view() are white space
};

// Bytes of white space at the end of `text`, or at its beginning.
inline size_t TrailingAsciiSpace(std::string_view text) {
  const size_t last = text.find_last_not_of(kAsciiSpace);
  return last == std::string_view::npos ? text.size() : text.size() - last - 1;
}
inline size_t LeadingAsciiSpace(std::string_view text) {
  return std::min(text.find_first_not_of(kAsciiSpace), text.size());
}

}  // namespace qianyi
