#include "runtime/tokenizers/glm_sentencepiece.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/tokenizers/added_tokens.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"

namespace qianyi {
namespace {

using Type = SentencePieceModel::Type;

constexpr int kLongestBlank = 80;
constexpr char kTab[] = "<|tab|>";
constexpr const char* kIcetkCommands[] = {"[MASK]", "[gMASK]", "[sMASK]", "<unused_0>",
                                          "<sop>",  "<eop>",   "<ENC>",   "<dBLOCK>"};

std::string Blank(int spaces) { return absl::StrCat("<|blank_", spaces, "|>"); }

// The pieces that the original appends to the text model, in its order.
absl::Status CompleteIcetk(SentencePieceModel* model) {
  for (const SentencePieceModel::Piece& piece : model->pieces) {
    if (piece.text == kTab) return absl::OkStatus();  // the file has them already
  }
  for (const char* command : kIcetkCommands) {
    model->pieces.push_back({command, 0, Type::kControl});
  }
  model->pieces.push_back({kTab, 0, Type::kUserDefined});
  for (int spaces = 2; spaces <= kLongestBlank; ++spaces) {
    model->pieces.push_back({Blank(spaces), 0, Type::kUserDefined});
  }
  for (int byte = 0; byte < 256; ++byte) {
    model->pieces.push_back({absl::StrFormat("<0x%02X>", byte), 0, Type::kByte});
  }
  return model->CheckPieces(/*byte_fallback=*/true);
}

class IcetkText final : public TextTokenizer {
 public:
  IcetkText(SentencePieceModel model, const IcetkOptions& options)
      : options_(options), pieces_(std::move(model)), spaces_(kLongestBlank, ' ') {
    blanks_.assign(static_cast<size_t>(pieces_.size()), 0);
    for (int spaces = 2; spaces <= kLongestBlank; ++spaces) {
      const int32_t id = pieces_.Find(Blank(spaces));
      if (id >= 0) blanks_[static_cast<size_t>(id)] = static_cast<int8_t>(spaces);
    }
    line_break_ = pieces_.Find("<n>");
    tab_ = pieces_.Find(kTab);
  }

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    const size_t first = ids->size();
    const std::string marked = absl::StrCat(options_.dummy_prefix ? "" : "<n>", Mark(text));
    if (absl::Status status = pieces_.Encode(marked, ids); !status.ok()) return status;
    if (!options_.dummy_prefix) {
      // The space that sentencepiece puts in front, and the "<n>" that kept it off the text.
      const auto begin = ids->begin() + static_cast<std::ptrdiff_t>(first);
      ids->erase(begin, begin + std::min<std::ptrdiff_t>(2, ids->end() - begin));
    }
    for (size_t i = first; i < ids->size(); ++i) (*ids)[i] += options_.image_tokens;
    return absl::OkStatus();
  }
  int32_t size() const override { return options_.image_tokens + pieces_.size(); }
  bool Contains(int32_t id) const override { return id >= 0 && id < size(); }
  std::string_view Bytes(int32_t id, bool* run_start) const override {
    const int32_t piece = id - options_.image_tokens;
    if (piece < 0 || piece >= pieces_.size()) return {};
    std::string_view bytes = pieces_.Bytes(piece, run_start);
    if (piece == line_break_) bytes = "\n";
    if (piece == tab_) bytes = "\t";
    if (const int spaces = blanks_[static_cast<size_t>(piece)]; spaces > 0) {
      bytes = std::string_view(spaces_).substr(0, static_cast<size_t>(spaces));
    }
    return bytes;
  }

 private:
  static std::string Mark(std::string_view text) {
    std::string marked;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find_first_not_of(' ', at), text.size());
      for (size_t spaces = end - at; spaces > 0;) {
        const size_t taken = std::min<size_t>(spaces, kLongestBlank);
        marked += taken == 1 ? " " : Blank(static_cast<int>(taken));
        spaces -= taken;
      }
      at = end;
      if (at == text.size()) break;
      if (text[at] == '\n') {
        marked += "<n>";
      } else if (text[at] == '\t') {
        marked += kTab;
      } else {
        marked += text[at];
      }
      ++at;
    }
    return marked;
  }

  const IcetkOptions options_;
  const SentencePieceTokenizer pieces_;
  const std::string spaces_;
  std::vector<int8_t> blanks_;  // by piece: the spaces it stands for
  int32_t line_break_ = -1;
  int32_t tab_ = -1;
};

absl::Status Named(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseChatGlmPieces(std::string_view file,
                                                              const std::string& name) {
  auto text = SentencePieceTokenizer::Parse(file, name);
  if (!text.ok()) return text.status();
  std::vector<AddedToken> added;
  int32_t id = (*text)->size();
  for (const char* word : {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>",
                           "<|assistant|>", "<|observation|>"}) {
    added.push_back({.word = word, .id = id++, .acts = word[0] == '[' || word[0] == '<'});
  }
  if (const int32_t eos = (*text)->Find("</s>"); eos >= 0) {
    added.push_back({.word = "</s>", .id = eos, .acts = false});
  }
  return AddedTokenTokenizer::Create(*std::move(text), std::move(added));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseIcetk(std::string_view file,
                                                      const IcetkOptions& options,
                                                      const std::string& name) {
  if (options.image_tokens < 0 || options.image_tokens > kMaxTokenId / 2) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: image_tokens is %d; it must be 0 to %d",
                                                      name, options.image_tokens, kMaxTokenId / 2));
  }
  absl::StatusOr<SentencePieceModel> model = SentencePieceModel::Parse(file, name);
  if (!model.ok()) return model.status();
  if (absl::Status status = CompleteIcetk(&*model); !status.ok()) return Named(name, status);
  std::vector<AddedToken> added;
  for (size_t id = 0; id < model->pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model->pieces[id];
    if (piece.type != Type::kControl) continue;
    added.push_back({.word = piece.text,
                     .id = static_cast<int32_t>(id) + options.image_tokens,
                     .acts = piece.text.starts_with('[')});
  }
  return AddedTokenTokenizer::Create(std::make_shared<IcetkText>(*std::move(model), options),
                                     std::move(added));
}

}  // namespace qianyi
