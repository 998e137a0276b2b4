#include "runtime/verse/character_table.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "runtime/verse/split_fields.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {

extern const std::string_view kEmbeddedTones;

const CharacterTable& CharacterTable::Get() {
  static const CharacterTable* const table = [] {
    auto parsed = Parse(kEmbeddedTones);
    if (!parsed.ok()) {  // built into the program: our mistake, not the world's
      std::fprintf(stderr, "tones.tsv: %s\n", parsed.status().ToString().c_str());
      std::abort();
    }
    return new CharacterTable(*std::move(parsed));
  }();
  return *table;
}

absl::StatusOr<CharacterTable> CharacterTable::Parse(std::string_view tsv) {
  CharacterTable table;
  int number = 0;
  for (const std::string_view line : Split(tsv, '\n')) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    if (const absl::Status status = table.Add(line); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("line %d: %s", number, status.message()));
    }
  }
  if (table.sounds_.empty()) return absl::InvalidArgumentError("no characters");
  return table;
}

absl::Status CharacterTable::Add(std::string_view line) {
  const std::vector<std::string_view> fields = Split(line, '\t');
  if (fields.size() != 3) {
    return absl::InvalidArgumentError(absl::StrFormat("%d fields instead of 3", fields.size()));
  }
  const std::u32string character = Characters(fields[0]);
  if (character.size() != 1 || !IsHan(character[0])) {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is not one Chinese character", fields[0]));
  }
  Sound sound{.level = fields[1] == "平" || fields[1] == "○",
              .oblique = fields[1] == "仄" || fields[1] == "○"};
  if (!sound.known()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tone \"%s\"; it must be 平, 仄 or ○", fields[1]));
  }
  if (fields[2] != "-") {
    const auto groups = GroupBits(fields[2]);
    if (!groups.ok()) return groups.status();
    sound.groups = *groups;
    if (!sound.level) {
      return absl::InvalidArgumentError("rhyme groups are of level tones; this one is oblique");
    }
  }
  if (!sounds_.emplace(character[0], sound).second) {
    return absl::InvalidArgumentError(absl::StrFormat("%s is there twice", fields[0]));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> CharacterTable::GroupBits(std::string_view names) {
  uint32_t bits = 0;
  for (const char32_t name : Characters(names)) {
    if (!IsHan(name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("rhyme group \"%s\"; it must be Chinese characters or -", names));
    }
    const auto found = std::find(groups_.begin(), groups_.end(), name);
    const int bit = static_cast<int>(found - groups_.begin());
    if (bit == kMaxGroups) {
      return absl::InvalidArgumentError(absl::StrFormat("more than %d rhyme groups", kMaxGroups));
    }
    if (found == groups_.end()) groups_.push_back(name);
    bits |= uint32_t{1} << bit;
  }
  if (bits == 0) return absl::InvalidArgumentError("an empty rhyme group; it must be a name or -");
  return bits;
}

Sound CharacterTable::Find(char32_t character) const {
  const auto found = sounds_.find(character);
  return found == sounds_.end() ? Sound{} : found->second;
}

}  // namespace qianyi
