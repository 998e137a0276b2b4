#include "runtime/tokenizers/sentencepiece_tokenizer.h"

#include <cstddef>
#include <limits>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

using Type = SentencePieceModel::Type;

std::string WithSpaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const size_t mark = piece.find(kSpaceMark);
    text += piece.substr(0, mark);
    if (mark == std::string_view::npos) break;
    text += ' ';
    piece.remove_prefix(mark + kSpaceMark.size());
  }
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> SentencePieceTokenizer::Open(
    const std::string& path) {
  absl::StatusOr<std::string> file = ReadTextFile(path, kMaxTokenizerFileBytes);
  if (!file.ok()) return file.status();
  return Parse(*file, path);
}

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> SentencePieceTokenizer::Parse(
    std::string_view file, const std::string& name) {
  absl::StatusOr<SentencePieceModel> model = SentencePieceModel::Parse(file, name);
  if (!model.ok()) return model.status();
  return std::unique_ptr<SentencePieceTokenizer>(new SentencePieceTokenizer(*std::move(model)));
}

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceModel model)
    : model_(std::move(model)),
      user_defined_(UserDefinedPieces(model_)),
      normalizer_(model_, user_defined_),
      unigram_(model_) {
  ids_.reserve(model_.pieces.size());
  bytes_.reserve(model_.pieces.size());
  for (const SentencePieceModel::Piece& piece : model_.pieces) {
    ids_.emplace(piece.text, static_cast<int32_t>(ids_.size()));
    switch (piece.type) {
      case Type::kControl:
        bytes_.emplace_back();
        break;
      case Type::kUnknown:
        bytes_.push_back(model_.unknown_text);
        break;
      case Type::kByte:
        bytes_.emplace_back();  // filled in below
        break;
      default:
        bytes_.push_back(WithSpaces(piece.text));
    }
  }
  for (int byte = 0; byte < 256 && model_.has_bytes(); ++byte) {
    bytes_[static_cast<size_t>(model_.byte_ids[byte])] = static_cast<char>(byte);
  }
}

int32_t SentencePieceTokenizer::Find(std::string_view piece) const {
  const auto at = ids_.find(piece);
  return at == ids_.end() ? -1 : at->second;
}

// Writes pieces as ids; one without an id is its bytes, or unknown.
class SentencePieceTokenizer::Writer {
 public:
  Writer(const SentencePieceModel& model, Output out) : model_(model), out_(out) {}

  void Write(std::string_view piece, int32_t id) {
    const bool unknown = id < 0 || id == model_.unknown_id;
    if (!unknown) {
      out_.ids->push_back(id);
      if (out_.pieces != nullptr) out_.pieces->emplace_back(piece);
    } else if (model_.has_bytes()) {
      for (const char byte : piece) {
        out_.ids->push_back(model_.byte_ids[static_cast<uint8_t>(byte)]);
        if (out_.pieces == nullptr) continue;
        out_.pieces->push_back(model_.pieces[static_cast<size_t>(out_.ids->back())].text);
      }
    } else if (after_unknown_) {  // a run of unknown pieces is one
      if (out_.pieces != nullptr) out_.pieces->back().append(piece);
    } else {
      out_.ids->push_back(model_.unknown_id);
      if (out_.pieces != nullptr) out_.pieces->emplace_back(piece);
    }
    after_unknown_ = unknown;
  }

 private:
  const SentencePieceModel& model_;
  const Output out_;
  bool after_unknown_ = false;
};

// Takes the pair of neighbours that makes the piece of highest score, the leftmost among
// equals, joins it and looks again. Symbols view the normalized text.
class SentencePieceTokenizer::Merger {
 public:
  Merger(const SentencePieceTokenizer& tokenizer, std::string_view text)
      : tokenizer_(tokenizer), text_(text) {}

  void Run(Writer* out) {
    Cut();
    for (int32_t i = 1; i < static_cast<int32_t>(symbols_.size()); ++i) Rate(i - 1, i);
    while (!agenda_.empty()) {
      const Pair pair = agenda_.top();
      agenda_.pop();
      Join(pair);
    }
    for (int32_t at = symbols_.empty() ? -1 : 0; at >= 0; at = symbol(at).next) {
      Write(Text(symbol(at)), out);
    }
  }

 private:
  struct Symbol {
    int32_t previous;  // -1 at the ends
    int32_t next;
    uint32_t begin;
    uint32_t bytes;  // 0 once it was joined to the one on its left
    bool whole;      // user-defined: never joined
  };
  struct Pair {
    float score;
    int32_t left;
    int32_t right;
    uint32_t bytes;
    bool operator<(const Pair& other) const {  // less urgent
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  Symbol& symbol(int32_t at) { return symbols_[static_cast<size_t>(at)]; }
  std::string_view Text(const Symbol& of) const { return text_.substr(of.begin, of.bytes); }

  void Cut() {
    for (size_t begin = 0; begin < text_.size();) {
      const std::string_view rest = text_.substr(begin);
      const size_t whole = tokenizer_.user_defined_.Match(rest);
      const size_t bytes = whole > 0 ? whole : StepUtf8(rest).bytes;
      const int32_t index = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({index - 1, begin + bytes < text_.size() ? index + 1 : -1,
                          static_cast<uint32_t>(begin), static_cast<uint32_t>(bytes), whole > 0});
      begin += bytes;
    }
  }

  void Rate(int32_t left, int32_t right) {
    if (left < 0 || right < 0 || symbol(left).whole || symbol(right).whole) return;
    const uint32_t bytes = symbol(left).bytes + symbol(right).bytes;
    const std::string_view joined = text_.substr(symbol(left).begin, bytes);
    const int32_t id = tokenizer_.Find(joined);
    if (id < 0) return;
    const SentencePieceModel::Piece& piece = tokenizer_.model_.pieces[static_cast<size_t>(id)];
    if (piece.type == Type::kUnknown || piece.type == Type::kControl || piece.type == Type::kByte) {
      return;
    }
    agenda_.push({piece.score, left, right, bytes});
    if (piece.type == Type::kUnused) parts_[joined] = symbol(left).bytes;
  }

  void Join(const Pair& pair) {
    Symbol& left = symbol(pair.left);
    Symbol& right = symbol(pair.right);
    if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes) return;
    left.bytes = pair.bytes;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = pair.left;
    right.bytes = 0;
    Rate(left.previous, pair.left);
    Rate(pair.left, left.next);
  }

  // Writes a symbol; unused pieces are taken apart again into what they were joined from.
  void Write(std::string_view whole, Writer* out) {
    unwritten_.assign(1, whole);
    while (!unwritten_.empty()) {
      const std::string_view piece = unwritten_.back();
      unwritten_.pop_back();
      const int32_t id = tokenizer_.Find(piece);
      if (id >= 0 && tokenizer_.model_.pieces[static_cast<size_t>(id)].type == Type::kUnused) {
        if (const auto parts = parts_.find(piece); parts != parts_.end()) {
          unwritten_.push_back(piece.substr(parts->second));
          unwritten_.push_back(piece.substr(0, parts->second));
          continue;
        }
      }
      out->Write(piece, id);
    }
  }

  const SentencePieceTokenizer& tokenizer_;
  const std::string_view text_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Pair> agenda_;
  std::unordered_map<std::string_view, uint32_t> parts_;  // of unused pieces: bytes of the left
  std::vector<std::string_view> unwritten_;
};

absl::Status SentencePieceTokenizer::Encode(std::string_view text, Output out) const {
  constexpr size_t kLimit = std::numeric_limits<int32_t>::max();
  const std::string normalized = text.size() < kLimit ? normalizer_.Normalize(text) : "";
  if (text.size() >= kLimit || normalized.size() >= kLimit) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(), " bytes, ",
                                                   normalized.size(), " when normalized; at most ",
                                                   kLimit - 1, " can be encoded"));
  }
  Writer writer(model_, out);
  if (model_.algorithm == SentencePieceModel::Algorithm::kBpe) {
    Merger(*this, normalized).Run(&writer);
    return absl::OkStatus();
  }
  std::vector<SentencePieceUnigram::Part> parts;
  unigram_.Segment(normalized, &parts);
  for (const SentencePieceUnigram::Part& part : parts) writer.Write(part.text, part.id);
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::Encode(std::string_view text,
                                            std::vector<int32_t>* ids) const {
  return Encode(text, Output{ids, nullptr});
}

absl::Status SentencePieceTokenizer::EncodePieces(std::string_view text,
                                                  std::vector<std::string>* pieces) const {
  std::vector<int32_t> ids;
  return Encode(text, Output{&ids, pieces});
}

std::string_view SentencePieceTokenizer::Bytes(int32_t id, bool* run_start) const {
  if (!Contains(id)) return {};
  const SentencePieceModel::Piece& piece = model_.pieces[static_cast<size_t>(id)];
  std::string_view bytes = bytes_[static_cast<size_t>(id)];
  const bool plain = piece.type == Type::kNormal || piece.type == Type::kUserDefined ||
                     piece.type == Type::kUnused;
  if (plain && *run_start && std::string_view(piece.text).starts_with(kSpaceMark) &&
      (model_.add_dummy_prefix || model_.remove_extra_whitespaces)) {
    bytes.remove_prefix(1);
    // Without the collapsing of spaces only the first one is dropped.
    if (!model_.remove_extra_whitespaces) *run_start = false;
  }
  if (!bytes.empty()) *run_start = false;
  return bytes;
}

}  // namespace qianyi
