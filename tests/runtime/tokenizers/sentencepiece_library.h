// The original library as an oracle. Its header and abseil's cannot meet in one file, so it is
// wrapped here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace qianyi {

class SentencePieceLibrary {
 public:
  // Null when the library refuses the file.
  static std::unique_ptr<SentencePieceLibrary> Load(const std::string& file);
  ~SentencePieceLibrary();

  std::vector<int32_t> Encode(const std::string& text) const;
  std::vector<std::string> EncodePieces(const std::string& text) const;
  std::string Decode(const std::vector<int32_t>& ids) const;
  std::string Piece(int32_t id) const;
  int32_t size() const;

 private:
  struct Processor;
  SentencePieceLibrary() = default;
  std::unique_ptr<Processor> processor_;
};

}  // namespace qianyi
