#include "runtime/tokenizers/sentencepiece_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

// Walks the fields of one protocol buffer message.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  // False at the end, or when the message is malformed.
  bool Next() {
    if (rest_.empty()) return false;
    uint64_t key = 0;
    if (!Varint(&key) || key >> 3 == 0 || key >> 3 > 536870911) return Fail();
    number = static_cast<int>(key >> 3);
    wire = static_cast<int>(key & 7);
    switch (wire) {
      case 0:
        return Varint(&varint) || Fail();
      case 1:
        return Take(8) || Fail();
      case 2: {
        uint64_t length = 0;
        return (Varint(&length) && Take(length)) || Fail();
      }
      case 5:
        return Take(4) || Fail();
      default:  // groups, which nothing here uses
        return Fail();
    }
  }

  bool malformed() const { return malformed_; }
  // The field just read: `varint` of wire type 0, `bytes` of the others.
  int number = 0;
  int wire = 0;
  uint64_t varint = 0;
  std::string_view bytes;

  bool is_bytes() const { return wire == 2; }
  bool is_varint() const { return wire == 0; }

 private:
  bool Fail() {
    malformed_ = true;
    return false;
  }
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return false;
      const uint8_t byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Take(uint64_t length) {
    if (length > rest_.size()) return false;
    bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return true;
  }

  std::string_view rest_;
  bool malformed_ = false;
};

absl::Status NotWellFormed(const std::string& where) {
  return absl::InvalidArgumentError(
      absl::StrCat("not a sentencepiece model: ", where, " is not a well-formed message"));
}

absl::Status ParsePiece(std::string_view message, SentencePieceModel* model) {
  SentencePieceModel::Piece piece;
  const size_t id = model->pieces.size();
  if (id == SentencePieceModel::kMaxPieces) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has more than ", SentencePieceModel::kMaxPieces, " pieces"));
  }
  Fields field(message);
  while (field.Next()) {
    if (field.number == 1 && field.is_bytes()) piece.text = std::string(field.bytes);
    if (field.number == 2 && field.wire == 5) {
      std::memcpy(&piece.score, field.bytes.data(), sizeof piece.score);
    }
    if (field.number == 3 && field.is_varint()) {
      if (field.varint < 1 || field.varint > 6) {
        return absl::InvalidArgumentError(
            absl::StrCat("piece ", id, " has the type ", field.varint, "; types are 1 to 6"));
      }
      piece.type = static_cast<SentencePieceModel::Type>(field.varint);
    }
  }
  if (field.malformed()) return NotWellFormed(absl::StrCat("piece ", id));
  if (piece.text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("piece ", id, " is empty"));
  }
  if (!std::isfinite(piece.score)) {
    return absl::InvalidArgumentError(absl::StrCat("piece ", id, " has no finite score"));
  }
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ParseTrainer(std::string_view message, SentencePieceModel* model,
                          bool* byte_fallback) {
  uint64_t model_type = 1;  // unigram, the default of the format
  Fields field(message);
  while (field.Next()) {
    if (field.number == 3 && field.is_varint()) model_type = field.varint;
    if (field.number == 35 && field.is_varint()) *byte_fallback = field.varint != 0;
    if (field.number == 44 && field.is_bytes()) model->unknown_text = std::string(field.bytes);
    if (field.number == 24 && field.is_varint() && field.varint != 0) {
      return absl::UnimplementedError("white space as a suffix (trainer_spec field 24) is set");
    }
  }
  if (field.malformed()) return NotWellFormed("trainer_spec");
  if (model_type != 1 && model_type != 2) {
    return absl::UnimplementedError(
        absl::StrCat("model_type is ", model_type, "; only unigram (1) and BPE (2) are supported"));
  }
  model->algorithm = static_cast<SentencePieceModel::Algorithm>(model_type);
  // The original library reads it as a C string.
  model->unknown_text.resize(std::strlen(model->unknown_text.c_str()));
  return absl::OkStatus();
}

// <size of the trie in bytes, u32> <trie> <replacements>
absl::Status ParseReplacements(std::string_view map, SentencePieceModel* model) {
  if (map.empty()) return absl::OkStatus();
  uint32_t trie_bytes = 0;
  if (map.size() >= sizeof trie_bytes) std::memcpy(&trie_bytes, map.data(), sizeof trie_bytes);
  if (map.size() < sizeof trie_bytes || trie_bytes > map.size() - sizeof trie_bytes ||
      trie_bytes % sizeof(uint32_t) != 0 || trie_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("the normalizer's table of ", map.size(),
                                                   " bytes cannot hold a trie of ", trie_bytes,
                                                   " bytes"));
  }
  map.remove_prefix(sizeof trie_bytes);
  model->trie.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(model->trie.data(), map.data(), trie_bytes);
  model->replacements = std::string(map.substr(trie_bytes));
  if (model->replacements.empty() || model->replacements.back() != '\0') {
    return absl::InvalidArgumentError("the normalizer's replacements do not end with a NUL");
  }
  for (size_t begin = 0; begin < model->replacements.size();) {
    const size_t end = model->replacements.find('\0', begin);
    if (end - begin > SentencePieceModel::kMaxReplacementBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a replacement of the normalizer has ", end - begin, " bytes; at most ",
                       SentencePieceModel::kMaxReplacementBytes, " are allowed"));
    }
    begin = end + 1;
  }
  return absl::OkStatus();
}

absl::Status ParseNormalizer(std::string_view message, SentencePieceModel* model) {
  std::string_view map;
  Fields field(message);
  while (field.Next()) {
    if (field.number == 2 && field.is_bytes()) map = field.bytes;
    if (field.number == 3 && field.is_varint()) model->add_dummy_prefix = field.varint != 0;
    if (field.number == 4 && field.is_varint()) {
      model->remove_extra_whitespaces = field.varint != 0;
    }
    if (field.number == 5 && field.is_varint()) model->escape_whitespaces = field.varint != 0;
  }
  if (field.malformed()) return NotWellFormed("normalizer_spec");
  return ParseReplacements(map, model);
}

absl::Status CheckDenormalizer(std::string_view message) {
  Fields field(message);
  while (field.Next()) {
    if (field.number == 2 && field.is_bytes() && !field.bytes.empty()) {
      return absl::UnimplementedError("it has a denormalizer");
    }
  }
  return field.malformed() ? NotWellFormed("denormalizer_spec") : absl::OkStatus();
}

absl::Status ParseModel(std::string_view file, SentencePieceModel* model) {
  bool byte_fallback = false;
  bool trainer = false;
  bool normalizer = false;
  Fields field(file);
  while (field.Next()) {
    absl::Status status;
    if (field.number == 1 && field.is_bytes()) status = ParsePiece(field.bytes, model);
    if (field.number == 2 && field.is_bytes()) {
      if (std::exchange(trainer, true)) return NotWellFormed("a second trainer_spec");
      status = ParseTrainer(field.bytes, model, &byte_fallback);
    }
    if (field.number == 3 && field.is_bytes()) {
      if (std::exchange(normalizer, true)) return NotWellFormed("a second normalizer_spec");
      status = ParseNormalizer(field.bytes, model);
    }
    if (field.number == 5 && field.is_bytes()) status = CheckDenormalizer(field.bytes);
    if (!status.ok()) return status;
  }
  if (field.malformed()) return NotWellFormed("the file");
  if (!trainer) return absl::InvalidArgumentError("it has no trainer_spec");
  return model->CheckPieces(byte_fallback);
}

}  // namespace

absl::Status SentencePieceModel::CheckPieces(bool byte_fallback) {
  std::unordered_set<std::string_view> seen;
  unknown_id = -1;
  seen.reserve(pieces.size());
  std::fill(std::begin(byte_ids), std::end(byte_ids), -1);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    if (!seen.insert(piece.text).second) {
      return absl::InvalidArgumentError(absl::StrCat("piece ", i, " occurs twice"));
    }
    if (piece.type == Type::kUnknown) {
      if (unknown_id >= 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("pieces ", unknown_id, " and ", i, " are both of the type unknown"));
      }
      unknown_id = static_cast<int32_t>(i);
    }
    if (piece.type == Type::kByte) {
      int byte = 0;
      while (byte < 256 && piece.text != absl::StrFormat("<0x%02X>", byte)) ++byte;
      if (byte == 256 || !byte_fallback) {
        return absl::InvalidArgumentError(absl::StrCat(
            "piece ", i, " is of the type byte but ",
            byte == 256 ? "its name is not <0x00> to <0xFF>" : "byte_fallback is off"));
      }
      byte_ids[byte] = static_cast<int32_t>(i);
    }
  }
  if (unknown_id < 0) return absl::InvalidArgumentError("no piece is of the type unknown");
  if (byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      if (byte_ids[byte] >= 0) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("byte_fallback is on but there is no piece <0x%02X>", byte));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SentencePieceModel> SentencePieceModel::Parse(std::string_view file,
                                                             const std::string& name) {
  SentencePieceModel model;
  if (absl::Status status = ParseModel(file, &model); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
  return model;
}

}  // namespace qianyi
