#include "runtime/verify/tokenizers.h"

#include <cstdint>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizers/cogview_tokens.h"
#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "runtime/verify/tokenizer_cases.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Variants = std::vector<TokenizerVariant>;

std::string Name(const char* list, size_t index, const std::string& field) {
  return absl::StrCat(list, "[", index, "].", field);
}

bool HasPrefix(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

// The tokenizer that `field` speaks of, without its prefix ("ids_", "glm_ids_"); null when
// there is none. The Chinese fixture calls its second variant "not_fixed".
const Tokenizer* FindVariant(const Variants& variants, const std::string& slug) {
  for (const TokenizerVariant& variant : variants) {
    if (variant.slug == slug) return variant.tokenizer.get();
  }
  return slug == "not_fixed" && variants.size() > 1 ? variants[1].tokenizer.get() : nullptr;
}

absl::StatusOr<Ids> Encode(const Tokenizer& tokenizer, const json& entry, bool specials = true) {
  const absl::StatusOr<std::string> text = TextOf(entry, "text");
  if (!text.ok()) return text.status();
  return tokenizer.Encode(*text, specials);
}

absl::StatusOr<std::string> Decode(const Tokenizer& tokenizer, const json& entry,
                                   const char* field) {
  const absl::StatusOr<Ids> ids = IdsOf(entry, field);
  if (!ids.ok()) return ids.status();
  return tokenizer.Decode(*ids);
}

void CompareHex(TokenizerCases& cases, const std::string& name, const json& want,
                const json& entry) {
  const absl::StatusOr<std::string> text = TextOf(entry, "text");
  cases.Compare(name, want, text.ok() ? absl::StatusOr<json>(Hex(*text)) : text.status());
}

// Ids under the other variants stand only where they differ from those of the first. So a
// field that occurs in some case is expected of all: where it is absent, it equals `main`.
void CompareVariants(TokenizerCases& cases, const Variants& variants, const std::string& main) {
  const json& list = cases.List("encode");
  const std::string prefix = main + "_";
  std::set<std::string> fields;
  for (const json& entry : list) {
    for (const auto& item : entry.items()) {
      if (HasPrefix(item.key(), prefix)) fields.insert(item.key());
    }
  }
  for (size_t i = 0; i < list.size(); ++i) {
    for (const std::string& field : fields) {
      const bool stands = list[i].contains(field);
      const std::string slug = field.substr(prefix.size());
      const bool raw = slug == "raw_bpe";
      const Tokenizer* tokenizer =
          raw ? variants.front().tokenizer.get() : FindVariant(variants, slug);
      if (tokenizer == nullptr) {
        if (stands) cases.Unknown(Name("encode", i, field));
        continue;
      }
      const json want = stands ? list[i][field] : FieldOf(list[i], main);
      cases.Compare(Name("encode", i, field), want, ToJson(Encode(*tokenizer, list[i], !raw)),
                    stands ? "" : absl::StrCat("not listed, so as ", main));
    }
  }
}

std::vector<absl::StatusOr<std::string>> Texts(const json& list) {
  std::vector<absl::StatusOr<std::string>> texts;
  for (const json& entry : list) texts.push_back(TextOf(entry, "text"));
  return texts;
}

// Everything in cases.json outside the lists that were replayed.
void RestOfCases(TokenizerCases& cases, const std::set<std::string>& replayed) {
  for (const auto& item : cases.cases().items()) {
    if (replayed.count(item.key()) > 0 && item.value().is_array()) continue;
    cases.Unknown(item.key());
  }
}

void ReplayGpt2Encode(TokenizerCases& cases, const Variants& variants) {
  const Tokenizer& first = *variants.front().tokenizer;
  const json& list = cases.List("encode");
  for (size_t i = 0; i < list.size(); ++i) {
    for (const auto& item : list[i].items()) {
      const std::string name = Name("encode", i, item.key());
      if (item.key() == "text" || HasPrefix(item.key(), "ids_")) continue;
      if (item.key() == "utf8_hex") {
        CompareHex(cases, name, item.value(), list[i]);
      } else if (item.key() == "ids") {
        cases.Compare(name, item.value(), ToJson(Encode(first, list[i])));
      } else if (item.key() == "decoded") {
        cases.Compare(name, item.value(), ToJson(Decode(first, list[i], "ids")));
      } else {
        cases.Unknown(name);
      }
    }
  }
  CompareVariants(cases, variants, "ids");
}

void ReplayGpt2Decode(TokenizerCases& cases, const Tokenizer& tokenizer) {
  const json& list = cases.List("decode");
  for (size_t i = 0; i < list.size(); ++i) {
    for (const auto& item : list[i].items()) {
      if (item.key() == "ids") continue;
      const std::string name = Name("decode", i, item.key());
      if (item.key() == "decoded") {
        cases.Compare(name, item.value(), ToJson(Decode(tokenizer, list[i], "ids")));
      } else {
        cases.Unknown(name);
      }
    }
  }
}

// The tensors repeat cases.json; both are compared with what the tokenizer says.
void ReplayTensors(TokenizerCases& cases, const Tokenizer& tokenizer, const std::string& ids,
                   const std::string& decoded) {
  const json& encode = cases.List("encode");
  const json& decode = cases.List("decode");
  std::vector<absl::StatusOr<Ids>> encoded;
  for (const json& entry : encode) encoded.push_back(Encode(tokenizer, entry));
  std::vector<absl::StatusOr<Ids>> decode_ids;
  std::vector<absl::StatusOr<std::string>> decode_texts;
  for (const json& entry : decode) {
    decode_ids.push_back(IdsOf(entry, "ids"));
    decode_texts.push_back(Decode(tokenizer, entry, "ids"));
  }
  cases.TextTensors("text", Texts(encode));
  cases.IdTensors(ids, encoded);
  cases.IdTensors("decode.ids", decode_ids);
  cases.TextTensors(decoded, decode_texts);
}

// The Chinese folder's three readers of one sentencepiece file.
struct CogReaders {
  std::shared_ptr<const SentencePieceTokenizer> text;
  Variants glm;
  CogViewTokens cogview;
};

absl::StatusOr<json> CogViewDecoded(const CogReaders& readers, const json& entry, bool images) {
  const absl::StatusOr<Ids> ids = IdsOf(entry, "cogview_ids");
  if (!ids.ok()) return ids.status();
  const absl::StatusOr<CogViewTokens::Decoded> decoded = readers.cogview.Decode(*ids);
  if (!decoded.ok()) return decoded.status();
  if (!images) return json(decoded->text);
  json runs = json::array();
  for (const Ids& codes : decoded->images) runs.push_back({{"image_codes", codes}});
  return runs;
}

absl::StatusOr<json> EncodedField(const CogReaders& readers, const std::string& field,
                                  const json& entry, bool* known) {
  *known = true;
  const absl::StatusOr<std::string> text = TextOf(entry, "text");
  const Tokenizer& glm = *readers.glm.front().tokenizer;
  if (field == "glm_ids") return ToJson(Encode(glm, entry));
  if (field == "glm_decoded") return ToJson(Decode(glm, entry, "glm_ids"));
  if (field == "cogview_decoded") return CogViewDecoded(readers, entry, /*images=*/false);
  if (!text.ok()) return text.status();
  if (field == "utf8_hex") return json(Hex(*text));
  if (field == "cogview_ids") return ToJson(readers.cogview.EncodeText(*text));
  if (field == "pieces") {
    std::vector<std::string> pieces;
    if (absl::Status status = readers.text->EncodePieces(*text, &pieces); !status.ok()) {
      return status;
    }
    return json(pieces);
  }
  *known = false;
  return json();
}

void ReplayCogEncode(TokenizerCases& cases, const CogReaders& readers) {
  const json& list = cases.List("encode");
  for (size_t i = 0; i < list.size(); ++i) {
    for (const auto& item : list[i].items()) {
      if (item.key() == "text" || HasPrefix(item.key(), "glm_ids_")) continue;
      bool known = false;
      const absl::StatusOr<json> got = EncodedField(readers, item.key(), list[i], &known);
      const std::string name = Name("encode", i, item.key());
      known ? cases.Compare(name, item.value(), got) : cases.Unknown(name);
    }
  }
  CompareVariants(cases, readers.glm, "glm_ids");
}

void ReplayCogDecode(TokenizerCases& cases, const CogReaders& readers) {
  const json& list = cases.List("decode");
  for (size_t i = 0; i < list.size(); ++i) {
    for (const auto& item : list[i].items()) {
      if (item.key() == "ids" || item.key() == "cogview_ids") continue;
      const std::string name = Name("decode", i, item.key());
      if (item.key() == "glm_decoded") {
        cases.Compare(name, item.value(),
                      ToJson(Decode(*readers.glm.front().tokenizer, list[i], "ids")));
      } else if (item.key() == "cogview_decoded_text" || item.key() == "cogview_decoded_images") {
        const bool images = item.key() == "cogview_decoded_images";
        cases.Compare(name, item.value(), CogViewDecoded(readers, list[i], images));
      } else {
        cases.Unknown(name);
      }
    }
  }
}

void ReplayQueries(TokenizerCases& cases, const CogViewTokens& cogview, const char* name) {
  const json& list = cases.List(name);
  for (size_t i = 0; i < list.size(); ++i) {
    const absl::StatusOr<std::string> query = TextOf(list[i], "query");
    const absl::StatusOr<Ids> ids =
        query.ok() ? cogview.EncodeQuery(*query) : absl::StatusOr<Ids>(query.status());
    for (const auto& item : list[i].items()) {
      if (item.key() == "query") continue;
      const std::string line = Name(name, i, item.key());
      if (item.key() == "ids") {
        cases.Compare(line, item.value(), ToJson(ids));
      } else if (item.key() == "error" && query.ok()) {
        // The original's exception has no counterpart here; that there is an error has.
        cases.Compare(line, true, json(!ids.ok()),
                      ids.ok() ? "" : std::string(ids.status().message()));
      } else {
        cases.Unknown(line);
      }
    }
  }
}

// An integer from 0 to `limit`; 0 for anything else.
size_t CountOf(const json& entry, const char* field, size_t limit) {
  const json& value = FieldOf(entry, field);
  return value.is_number_unsigned() && value.get<uint64_t>() <= limit ? value.get<size_t>() : 0;
}

void ReplayWrapCode(TokenizerCases& cases, const CogViewTokens& cogview) {
  const json& list = cases.List("wrap_code");
  for (size_t i = 0; i < list.size(); ++i) {
    Ids codes(CountOf(list[i], "wrap_code_len", 4096));
    std::iota(codes.begin(), codes.end(), 0);
    const absl::StatusOr<Ids> ids =
        cogview.WrapCodes(codes, static_cast<int>(CountOf(list[i], "idx", 3)));
    for (const auto& item : list[i].items()) {
      if (item.key() == "wrap_code_len" || item.key() == "idx") continue;
      const std::string name = Name("wrap_code", i, item.key());
      const size_t count = item.value().size();
      const bool fits = ids.ok() && count <= ids->size();
      if (item.key() == "ids_head") {
        cases.Compare(name, item.value(),
                      fits ? json(Ids(ids->begin(), ids->begin() + static_cast<int64_t>(count)))
                           : ToJson(ids));
      } else if (item.key() == "ids_tail") {
        cases.Compare(
            name, item.value(),
            fits ? json(Ids(ids->end() - static_cast<int64_t>(count), ids->end())) : ToJson(ids));
      } else {
        cases.Unknown(name);
      }
    }
  }
}

absl::StatusOr<CogReaders> OpenCogReaders(const TokenizerCases& cases) {
  const absl::StatusOr<std::string> path = cases.File("model_file");
  if (!path.ok()) return path.status();
  absl::StatusOr<std::shared_ptr<const SentencePieceTokenizer>> text =
      SentencePieceTokenizer::Open(*path);
  if (!text.ok()) return text.status();
  absl::StatusOr<Variants> glm = cases.Variants("glm_variants", *text);
  if (!glm.ok()) return glm.status();
  const auto config = cases.config().find("cogview");
  absl::StatusOr<CogViewTokens> cogview =
      CogViewTokens::Create(*text, config == cases.config().end() ? json() : json(*config));
  if (!cogview.ok()) return cogview.status();
  return CogReaders{*std::move(text), *std::move(glm), *std::move(cogview)};
}

}  // namespace

absl::Status VerifyTokenizerGpt2(const std::string& folder, VerifyReport& report) {
  absl::StatusOr<TokenizerCases> cases = TokenizerCases::Open(folder, report);
  if (!cases.ok()) return cases.status();
  const absl::StatusOr<std::string> vocab = cases->File("vocab_file");
  if (!vocab.ok()) return vocab.status();
  const absl::StatusOr<std::string> merges = cases->File("merges_file");
  if (!merges.ok()) return merges.status();
  absl::StatusOr<std::shared_ptr<const TextTokenizer>> text = Gpt2Bpe::Open(*vocab, *merges);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Variants> variants = cases->Variants("variants", *text);
  if (!variants.ok()) return variants.status();
  ReplayGpt2Encode(*cases, *variants);
  ReplayGpt2Decode(*cases, *variants->front().tokenizer);
  RestOfCases(*cases, {"encode", "decode"});
  ReplayTensors(*cases, *variants->front().tokenizer, "ids", "decode.text");
  cases->RestOfTensors();
  return absl::OkStatus();
}

absl::Status VerifyTokenizerCog(const std::string& folder, VerifyReport& report) {
  absl::StatusOr<TokenizerCases> cases = TokenizerCases::Open(folder, report);
  if (!cases.ok()) return cases.status();
  const absl::StatusOr<CogReaders> readers = OpenCogReaders(*cases);
  if (!readers.ok()) return readers.status();
  ReplayCogEncode(*cases, *readers);
  ReplayCogDecode(*cases, *readers);
  ReplayQueries(*cases, readers->cogview, "queries");
  ReplayQueries(*cases, readers->cogview, "query_errors");
  ReplayWrapCode(*cases, readers->cogview);
  RestOfCases(*cases, {"encode", "decode", "queries", "query_errors", "wrap_code"});
  ReplayTensors(*cases, *readers->glm.front().tokenizer, "glm_ids", "decode.glm_text");
  std::vector<absl::StatusOr<Ids>> cogview;
  for (const json& entry : cases->List("encode")) {
    const absl::StatusOr<std::string> text = TextOf(entry, "text");
    cogview.push_back(text.ok() ? readers->cogview.EncodeText(*text) : text.status());
  }
  cases->IdTensors("cogview_ids", cogview);
  cases->RestOfTensors();
  return absl::OkStatus();
}

}  // namespace qianyi
