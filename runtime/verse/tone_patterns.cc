#include "runtime/verse/tone_patterns.h"

#include <string>
#include <string_view>

namespace qianyi {
namespace {

// Types of lines for each pattern, kFirstLineRhymes the later two. Within a couplet the lines are
// opposite (对), across couplets they stick (粘).
constexpr std::string_view kOrders[] = {"aBbAaBbA", "bAaBbAaB", "ABbAaBbA", "BAaBbAaB"};

// A line of five; 中 is free.
std::u32string_view FiveSyllables(char type, int variant) {
  switch (type) {
    case 'a':
      return U"中仄中平仄";
    case 'A':
      return U"中仄仄平平";
    case 'b':
      return U"中平平仄仄";
    default:
      return variant == 0 ? U"平平中仄平" : U"中平平仄平";
  }
}

// A line of seven is one of five behind two syllables, the second opposite to its second.
std::u32string Line(char type, int length, int variant) {
  const std::u32string five(FiveSyllables(type, variant));
  if (length == 5) return five;
  return (five[1] == U'平' ? U"中仄" : U"中平") + five;
}

}  // namespace

std::vector<ToneSlot> ToneSlots(int lines, int length) {
  std::vector<ToneSlot> slots(lines * length);
  for (int bit = 0; bit < 8; ++bit) {
    for (int line = 0; line < lines; ++line) {
      const std::u32string tones = Line(kOrders[bit / 2][line], length, bit % 2);
      for (int i = 0; i < length; ++i) {
        ToneSlot& slot = slots[line * length + i];
        if (tones[i] != U'仄') slot.level |= 1 << bit;
        if (tones[i] != U'平') slot.oblique |= 1 << bit;
      }
    }
  }
  return slots;
}

}  // namespace qianyi
