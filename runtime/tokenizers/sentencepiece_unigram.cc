#include "runtime/tokenizers/sentencepiece_unigram.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

using Type = SentencePieceModel::Type;

constexpr float kUnknownPenalty = 10.0f;

bool MayStand(Type type) {
  return type == Type::kNormal || type == Type::kUserDefined || type == Type::kUnused;
}

// The library goes by the first byte alone, also where a text is ill-formed.
int32_t CharacterBytes(char lead) {
  constexpr char kBytes[] = "\1\1\1\1\1\1\1\1\1\1\1\1\2\2\3\4";
  return kBytes[static_cast<uint8_t>(lead) >> 4];
}

}  // namespace

SentencePieceUnigram::SentencePieceUnigram(const SentencePieceModel& model) : model_(model) {
  least_ = std::numeric_limits<float>::max();
  most_ = std::numeric_limits<float>::min();  // as the library has it: above 0
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model.pieces[id];
    if (MayStand(piece.type)) sorted_.push_back(static_cast<int32_t>(id));
    if (piece.type != Type::kNormal) continue;
    least_ = std::min(least_, piece.score);
    most_ = std::max(most_, piece.score);
  }
  std::sort(sorted_.begin(), sorted_.end(), [&](int32_t a, int32_t b) {
    return model.pieces[static_cast<size_t>(a)].text < model.pieces[static_cast<size_t>(b)].text;
  });
}

std::string_view SentencePieceUnigram::Piece(int32_t index) const {
  return model_.pieces[static_cast<size_t>(sorted_[static_cast<size_t>(index)])].text;
}

// Of the pieces that share their first `bytes` bytes, those that go on with `next`.
SentencePieceUnigram::Range SentencePieceUnigram::Narrow(Range range, size_t bytes,
                                                         char next) const {
  // -1 for a piece that ends here, which sorts before all others.
  const auto byte = [&](int32_t id) {
    const std::string& text = model_.pieces[static_cast<size_t>(id)].text;
    return text.size() == bytes ? -1 : static_cast<int>(static_cast<uint8_t>(text[bytes]));
  };
  const int wanted = static_cast<uint8_t>(next);
  const auto begin =
      std::lower_bound(sorted_.begin() + range.begin, sorted_.begin() + range.end, wanted,
                       [&](int32_t id, int value) { return byte(id) < value; });
  const auto end = std::upper_bound(begin, sorted_.begin() + range.end, wanted,
                                    [&](int value, int32_t id) { return value < byte(id); });
  return {static_cast<int32_t>(begin - sorted_.begin()),
          static_cast<int32_t>(end - sorted_.begin())};
}

// Follows every piece that begins at `begin`.
void SentencePieceUnigram::Reach(std::string_view text, int32_t begin,
                                 std::vector<Node>* nodes) const {
  const float until_here = (*nodes)[static_cast<size_t>(begin)].score;
  const std::string_view rest = text.substr(static_cast<size_t>(begin));
  const size_t character =
      std::min<size_t>(static_cast<size_t>(CharacterBytes(rest[0])), rest.size());
  // Sums are compared as doubles and kept as floats, as in the library.
  const auto offer = [&](size_t bytes, double sum, int32_t id) {
    Node& node = (*nodes)[static_cast<size_t>(begin) + bytes];
    if (node.begin < 0 || sum > static_cast<double>(node.score)) {
      node = {id, static_cast<float>(sum), begin};
    }
  };
  bool has_character = false;
  Range range = {0, static_cast<int32_t>(sorted_.size())};
  for (size_t bytes = 1; bytes <= rest.size(); ++bytes) {
    range = Narrow(range, bytes - 1, rest[bytes - 1]);
    if (range.begin == range.end) break;
    if (Piece(range.begin).size() != bytes) continue;
    const int32_t id = sorted_[static_cast<size_t>(range.begin)];
    const SentencePieceModel::Piece& piece = model_.pieces[static_cast<size_t>(id)];
    if (piece.type == Type::kUnused) continue;
    // A bonus, so that it wins against all that its text could be cut into.
    const double score = piece.type == Type::kUserDefined
                             ? static_cast<double>(static_cast<float>(bytes) * most_) - 0.1
                             : static_cast<double>(piece.score);
    offer(bytes, score + static_cast<double>(until_here), id);
    has_character = has_character || bytes == character;
  }
  if (!has_character) {
    offer(character, static_cast<double>(least_ - kUnknownPenalty + until_here), model_.unknown_id);
  }
}

void SentencePieceUnigram::Segment(std::string_view text, std::vector<Part>* parts) const {
  std::vector<Node> nodes(text.size() + 1);
  const int32_t size = static_cast<int32_t>(text.size());
  for (int32_t begin = 0; begin < size;) {
    Reach(text, begin, &nodes);
    begin += std::min(CharacterBytes(text[static_cast<size_t>(begin)]), size - begin);
  }
  const size_t first = parts->size();
  for (int32_t end = size; end > 0;) {
    const Node& node = nodes[static_cast<size_t>(end)];
    parts->push_back(
        {text.substr(static_cast<size_t>(node.begin), static_cast<size_t>(end - node.begin)),
         node.id});
    end = node.begin;
  }
  std::reverse(parts->begin() + static_cast<std::ptrdiff_t>(first), parts->end());
}

}  // namespace qianyi
