// Turns a stream of token ids into text, piece by piece, up to a stop string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// All pieces together are what Tokenizer::Decode makes of all ids, however they were cut; ids
// outside the vocabulary add nothing. A piece never ends inside a character, and text that
// may be the start of a stop string is held back until that is decided. Time is linear in the
// text times the number of stop strings. One stream, one thread.
class Detokenizer {
 public:
  // `tokenizer` outlives this. A stop string that is empty or not UTF-8 never matches.
  Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stops);

  // Appends to `out` the text that is now certain; none once stopped.
  void Append(int32_t id, std::string* out);
  // Ends the stream: appends what was held back, with U+FFFD for an unfinished character.
  void Finish(std::string* out);

  // True once a stop string was complete: the text before it is all there will be. The one
  // that was complete first counts; of several that end there, the longest.
  bool stopped() const { return stop_index_ >= 0; }
  // Which one, as an index into `stops`; -1 before.
  int stop_index() const { return stop_index_; }

 private:
  // Knuth, Morris and Pratt 1977: how much of the stop string the text ends with.
  struct Matcher {
    std::string word;
    std::vector<uint32_t> fallback;  // [n]: the next shorter match when n bytes have matched
    uint32_t matched = 0;

    bool Step(char byte);  // true when the word is complete
  };

  void Take(bool last, std::string* out);
  void Search(std::string_view text, std::string* out);

  const Tokenizer& tokenizer_;
  std::vector<Matcher> matchers_;  // by index into `stops`; the word is empty if it is void
  bool run_start_ = true;
  int stop_index_ = -1;
  std::string bytes_;  // not yet whole characters
  std::string text_;   // scratch
  std::string held_;   // may belong to a stop string, from held_begin_ on
  size_t held_begin_ = 0;
};

}  // namespace qianyi
