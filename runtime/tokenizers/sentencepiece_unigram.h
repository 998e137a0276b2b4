// The unigram segmentation of sentencepiece (Kudo 2018): the pieces of highest score in sum.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/sentencepiece_model.h"

namespace qianyi {

// As EncodeOptimized of sentencepiece 0.1.97. Views the model.
class SentencePieceUnigram {
 public:
  explicit SentencePieceUnigram(const SentencePieceModel& model);

  struct Part {
    std::string_view text;
    int32_t id;  // model.unknown_id for a character without a piece
  };
  // Viterbi (1967) over the characters of a normalized text; time is linear in it, times the
  // longest piece.
  void Segment(std::string_view text, std::vector<Part>* parts) const;

 private:
  // The pieces that begin with what has been read: [begin, end) of sorted_.
  struct Range {
    int32_t begin, end;
  };
  struct Node {  // the best way to where it stands
    int32_t id = -1;
    float score = 0;
    int32_t begin = -1;  // of its last piece
  };
  std::string_view Piece(int32_t index) const;
  Range Narrow(Range range, size_t bytes, char next) const;
  void Reach(std::string_view text, int32_t begin, std::vector<Node>* nodes) const;

  const SentencePieceModel& model_;
  std::vector<int32_t> sorted_;  // ids of the pieces that a text may have, by their bytes
  float least_ = 0;              // score of the normal pieces
  float most_ = 0;
};

}  // namespace qianyi
