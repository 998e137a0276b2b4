#include "tests/runtime/tokenizers/sentencepiece_library.h"

#include <sentencepiece_processor.h>

namespace qianyi {

struct SentencePieceLibrary::Processor {
  sentencepiece::SentencePieceProcessor library;
};

SentencePieceLibrary::~SentencePieceLibrary() = default;

std::unique_ptr<SentencePieceLibrary> SentencePieceLibrary::Load(const std::string& file) {
  std::unique_ptr<SentencePieceLibrary> loaded(new SentencePieceLibrary());
  loaded->processor_ = std::make_unique<Processor>();
  if (!loaded->processor_->library.LoadFromSerializedProto(file).ok()) return nullptr;
  return loaded;
}

std::vector<int32_t> SentencePieceLibrary::Encode(const std::string& text) const {
  return processor_->library.EncodeAsIds(text);
}
std::vector<std::string> SentencePieceLibrary::EncodePieces(const std::string& text) const {
  return processor_->library.EncodeAsPieces(text);
}
std::string SentencePieceLibrary::Decode(const std::vector<int32_t>& ids) const {
  return processor_->library.DecodeIds(ids);
}
std::string SentencePieceLibrary::Piece(int32_t id) const {
  return processor_->library.IdToPiece(id);
}
int32_t SentencePieceLibrary::size() const { return processor_->library.GetPieceSize(); }

}  // namespace qianyi
