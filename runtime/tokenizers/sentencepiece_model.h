// The part of a sentencepiece .model file that encoding needs: a protocol buffer
// (sentencepiece_model.proto of 0.1.97), read here field by field because such files come
// from strangers and the original library follows what they say without looking.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

struct SentencePieceModel {
  enum class Type : uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,  // found in the text before anything else, and never merged
    kUnused = 5,       // may be formed while merging, but is taken apart again
    kByte = 6,         // "<0x0A>": one byte of a character that has no piece
  };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };
  enum class Algorithm : uint8_t { kUnigram = 1, kBpe = 2 };

  Algorithm algorithm = Algorithm::kBpe;
  // At load: no piece is empty or occurs twice, scores are finite, exactly one is unknown,
  // and byte pieces are all there or none is.
  std::vector<Piece> pieces;  // by id
  int32_t unknown_id = -1;
  int32_t byte_ids[256];  // -1 without byte pieces

  std::string unknown_text = " \xE2\x81\x87 ";  // what an unknown id is decoded to
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;

  // Replacements of the normalizer: a double-array trie in the layout of darts-clone over
  // byte strings; its values are offsets of NUL-terminated strings. Both may be empty. The
  // trie's links are NOT checked here: whoever follows one checks it against the size.
  std::vector<uint32_t> trie;
  std::string replacements;  // ends with NUL; none is longer than kMaxReplacementBytes

  static constexpr size_t kMaxReplacementBytes = 256;
  static constexpr size_t kMaxPieces = 1 << 20;  // ids are below it

  bool has_bytes() const { return byte_ids[0] >= 0; }

  // Parses a whole file; `name` is for error messages. InvalidArgument when it is malformed;
  // Unimplemented for what GLM's models do not have (words, denormalizer, spaces as suffix).
  static absl::StatusOr<SentencePieceModel> Parse(std::string_view file, const std::string& name);
  // What holds at load, after `pieces` was changed: finds unknown_id and byte_ids.
  // InvalidArgument when it does not hold.
  absl::Status CheckPieces(bool byte_fallback);
};

}  // namespace qianyi
