// Sentencepiece (Kudo and Richardson 2018), BPE and unigram: the Chinese GLM models, CogView,
// ChatGLM.
//
// Results are those of libsentencepiece 0.1.97, which the tests compare with. It is not used
// here because one process serves strangers: that library follows the offsets in a model file
// unchecked, ends the process on some files, and takes quadratic time over a run of unknown
// characters (5 s for 1 MB).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/tokenizers/sentencepiece_model.h"
#include "runtime/tokenizers/sentencepiece_normalizer.h"
#include "runtime/tokenizers/sentencepiece_unigram.h"
#include "runtime/tokenizers/text_tokenizer.h"

namespace qianyi {

class SentencePieceTokenizer final : public TextTokenizer {
 public:
  // Errors name the file: NotFound, InvalidArgument (malformed) or Unimplemented (what
  // SentencePieceModel::Parse refuses).
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> Parse(std::string_view file,
                                                                       const std::string& name);
  explicit SentencePieceTokenizer(SentencePieceModel model);
  SentencePieceTokenizer(const SentencePieceTokenizer&) = delete;
  SentencePieceTokenizer& operator=(const SentencePieceTokenizer&) = delete;

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override;
  // The strings of the pieces; an unknown one is the text itself.
  absl::Status EncodePieces(std::string_view text, std::vector<std::string>* pieces) const;

  int32_t Find(std::string_view piece) const;  // its id, or -1
  const SentencePieceModel& model() const { return model_; }
  int32_t size() const override { return static_cast<int32_t>(model_.pieces.size()); }
  bool Contains(int32_t id) const override { return id >= 0 && id < size(); }
  std::string_view Bytes(int32_t id, bool* run_start) const override;

 private:
  class Merger;
  class Writer;
  struct Output {
    std::vector<int32_t>* ids;
    std::vector<std::string>* pieces;  // or null
  };

  absl::Status Encode(std::string_view text, Output out) const;

  const SentencePieceModel model_;
  const LongestWord user_defined_;
  const SentencePieceNormalizer normalizer_;
  const SentencePieceUnigram unigram_;
  std::unordered_map<std::string_view, int32_t> ids_;  // views model_.pieces
  std::vector<std::string> bytes_;                     // what each id is decoded to
};

}  // namespace qianyi
