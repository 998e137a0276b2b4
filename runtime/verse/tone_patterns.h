// The tone patterns of regulated verse, as a set that shrinks while a poem is written. The line
// types, their order and the taboos are those of the handbooks (王力《诗词格律》, chapters on 律诗
// and 绝句).
#pragma once

#include <cstdint>
#include <vector>

namespace qianyi {

// A bit for each of the four patterns (oblique or level start, first line rhyming or not) in
// either of two variants: the line 平平仄仄平 must keep its first or its third syllable level, or
// a level tone would stand alone in it (孤平). A poem chooses a variant anew in each line.
using TonePatterns = uint8_t;
inline constexpr TonePatterns kAllPatterns = 0xFF;
inline constexpr TonePatterns kFirstLineRhymes = 0xF0;

// Of one syllable: the patterns that admit a level tone there, and those that admit an oblique
// one. Even syllables and the last are fixed, and the last but two where the two behind it are
// alike (no 三平尾, no 三仄尾); others are free.
struct ToneSlot {
  TonePatterns level = 0;
  TonePatterns oblique = 0;
};

// Row by row; `lines` 4 or 8, `length` 5 or 7.
std::vector<ToneSlot> ToneSlots(int lines, int length);

// What is possible at the start of the next line: each pattern in both variants again.
inline TonePatterns NextLine(TonePatterns possible) {
  const TonePatterns patterns = (possible | possible >> 1) & 0x55;
  return static_cast<TonePatterns>(patterns | patterns << 1);
}

}  // namespace qianyi
