#include "runtime/tokenizers/cogview_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/pictures/picture_config.h"
#include "runtime/tokenizers/cogview_tokens.h"
#include "runtime/tokenizers/locate_file.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"

namespace qianyi {
namespace {

class CogViewTokenizer : public Tokenizer {
 public:
  CogViewTokenizer(CogViewTokens tokens, std::shared_ptr<const TextTokenizer> text,
                   const PictureConfig& config)
      : tokens_(std::move(tokens)),
        text_(std::move(text)),
        first_text_(config.image_tokens),
        vocab_size_(config.vocab_size) {}

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool specials) const override {
    if (!specials) return tokens_.EncodeText(text);
    absl::StatusOr<std::vector<int32_t>> ids = tokens_.EncodeQuery(text);
    if (!ids.ok()) return ids.status();
    for (int32_t& id : *ids) {
      if (id == CogViewTokens::kGenerate) id = tokens_.CommandId("[MASK]");
    }
    return ids;
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    absl::StatusOr<CogViewTokens::Decoded> decoded = tokens_.Decode(ids);
    if (!decoded.ok()) return decoded.status();
    std::string text;
    for (const std::string& run : decoded->text) text += run;
    return text;
  }
  std::string_view TokenBytes(int32_t id) const override {
    bool run_start = false;
    return NextBytes(id, &run_start);
  }
  std::string_view NextBytes(int32_t id, bool* run_start) const override {
    const int32_t piece = id - first_text_;
    return piece >= 0 && piece < text_->size() ? text_->Bytes(piece, run_start) : "";
  }
  int32_t vocab_size() const override { return vocab_size_; }
  int32_t CommandId(std::string_view role) const override {
    return tokens_.CommandId(absl::StrCat("[", std::string(role), "]"));
  }
  int32_t WordId(std::string_view word) const override { return tokens_.CommandId(word); }

 private:
  const CogViewTokens tokens_;
  const std::shared_ptr<const TextTokenizer> text_;
  const int32_t first_text_;
  const int32_t vocab_size_;
};

absl::StatusOr<std::string> FindTextModel(const std::string& folder, const nlohmann::json& config) {
  const auto tokenizer = config.find("tokenizer");
  if (tokenizer != config.end() && tokenizer->is_object() && tokenizer->contains("model_file") &&
      (*tokenizer)["model_file"].is_string()) {
    return LocateFile(folder, (*tokenizer)["model_file"].get<std::string>());
  }
  for (const char* name : {"cog-pretrain.model", "tokenizer.model"}) {
    absl::StatusOr<std::string> path = LocateFile(folder, name);
    if (path.ok()) return path;
  }
  return absl::NotFoundError(
      absl::StrCat(folder, ": has neither cog-pretrain.model nor tokenizer.model"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenCogViewTokenizer(const std::string& folder,
                                                                const nlohmann::json& config) {
  const absl::StatusOr<PictureConfig> picture = PictureConfig::Read(config);
  if (!picture.ok()) return picture.status();
  const absl::StatusOr<std::string> path = FindTextModel(folder, config);
  if (!path.ok()) return path.status();
  absl::StatusOr<std::shared_ptr<const TextTokenizer>> text = SentencePieceTokenizer::Open(*path);
  if (!text.ok()) return text.status();
  absl::StatusOr<CogViewTokens> tokens =
      CogViewTokens::Create(*text, {{"num_image_tokens", picture->image_tokens},
                                    {"num_text_tokens", picture->text_tokens},
                                    {"command_tokens", picture->commands}});
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(),
                        absl::StrCat(*path, ": ", tokens.status().message()));
  }
  return std::make_unique<CogViewTokenizer>(*std::move(tokens), *std::move(text), *picture);
}

}  // namespace qianyi
