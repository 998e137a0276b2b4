// Tones and rhymes of Chinese characters in classical verse.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

// How a character may be read. Neither tone: unknown. Both: it fits either.
struct Sound {
  bool level = false;    // 平
  bool oblique = false;  // 仄
  uint32_t groups = 0;   // the rhyme groups of its level readings, a bit each; 0 = unknown

  bool known() const { return level || oblique; }
  friend bool operator==(const Sound&, const Sound&) = default;
};

// Immutable, thread-safe.
class CharacterTable {
 public:
  static constexpr int kMaxGroups = 32;

  // The table in this folder (README.md says where it is from), parsed at the first call.
  static const CharacterTable& Get();

  // Lines of character, 平 仄 or ○, and the group's name or "-", between tabs; a character in
  // several groups has all their names in one field, a name being one character. Lines that
  // begin with # are passed over. InvalidArgument names the line.
  static absl::StatusOr<CharacterTable> Parse(std::string_view tsv);

  Sound Find(char32_t character) const;  // unknown characters: Sound{}
  int size() const { return static_cast<int>(sounds_.size()); }
  // By bit, in the order in which the table names them.
  const std::vector<char32_t>& groups() const { return groups_; }

 private:
  CharacterTable() = default;
  absl::Status Add(std::string_view line);
  absl::StatusOr<uint32_t> GroupBits(std::string_view names);

  std::unordered_map<char32_t, Sound> sounds_;
  std::vector<char32_t> groups_;
};

}  // namespace qianyi
