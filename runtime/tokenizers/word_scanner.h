// GPT-2's word pattern as a scanner: 's 't 're 've 'm 'll 'd, or an optional U+0020 before a
// run of letters (L*), of numbers (N*) or of anything else that is not white space; white
// space gives up its last character to the word that follows. Radford et al. 2019; Unicode
// properties are ICU's (15.0 in ICU 72).
#pragma once

#include <cstddef>
#include <string_view>

namespace qianyi {

// Bytes of the first word of well-formed, non-empty text.
size_t FirstWord(std::string_view text);

}  // namespace qianyi
