// ChatGLM-6B: a chat model that fills [gMASK] or [MASK], with rotary positions in two rows.
// zai-org/ChatGLM-6B; in SwissArmyTransformer's names too.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/config.h"
#include "runtime/models/post_norm.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

struct SpecialIds {
  int32_t mask = -1, gmask = -1, bos = -1, eos = -1;
};

struct Config {
  PostNormShape shape;
  SpecialIds ids;
};

// Sizes of the released vocabularies; the first had the codes of pictures before the text.
constexpr int64_t kTextVocab = 130528;
constexpr int64_t kPictureVocab = 150528;

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  PostNormShape& s = c.shape;
  s.layers = reader.Int("num_layers", 1, 1024);
  s.hidden = reader.Int("hidden_size", 1, 1 << 17);
  s.inner = reader.Int("inner_hidden_size", 1, 1 << 19, 4 * s.hidden);
  s.heads = reader.Int("num_attention_heads", 1, 1024);
  s.vocab = reader.Int("vocab_size", 1, 1 << 24);
  s.positions = reader.Int("max_sequence_length", 1, 1 << 24);
  s.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  s.rope_base = 1e4;
  s.two_rows = true;
  s.half_frequencies = reader.Bool("half_rounded_inv_freq", false);
  s.head = "lm_head.weight";
  reader.MustBe("position_encoding_2d", true);
  const int64_t text = s.vocab == kPictureVocab ? 150000 : 130000;
  const bool known = s.vocab == kPictureVocab || s.vocab == kTextVocab;
  auto id = [&](std::string_view name, int64_t behind) {
    const std::vector<int32_t> absent =
        known ? std::vector<int32_t>{static_cast<int32_t>(text + behind)} : std::vector<int32_t>();
    const std::vector<int32_t> ids = reader.Ids(name, s.vocab, absent);
    return ids.empty() ? -1 : ids.front();
  };
  c.ids = {id("mask_token_id", 0), id("gmask_token_id", 1), id("bos_token_id", 4),
           id("eos_token_id", 5)};
  if (!reader.status().ok()) return reader.status();
  reader.Require(s.hidden % (4 * s.heads) == 0,
                 "hidden_size must be num_attention_heads times a multiple of 4");
  reader.Require(c.ids.bos >= 0 && c.ids.gmask >= 0,
                 "bos_token_id and gmask_token_id are needed when vocab_size is not that of a "
                 "released ChatGLM-6B (130528, 150528)");
  if (!reader.status().ok()) return reader.status();
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  ModelSpec spec = DescribePostNorm(config->shape);
  spec.family = "chatglm-6b";
  return spec;
}

class ChatGlm6b : public PostNormModel {
 public:
  ChatGlm6b(Config config, const ModelFile& file)
      : PostNormModel(config.shape, file),
        config_(std::move(config)),
        end_tokens_(config_.ids.eos >= 0 ? std::vector<int32_t>{config_.ids.eos}
                                         : std::vector<int32_t>()) {}

  // Token i before the first bos stands at (i, 0) and sees all before bos; bos and what follows
  // at (index of the mask, 1), (index, 2), …
  absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const override {
    if (std::find(ids.begin(), ids.end(), config_.ids.bos) == ids.end()) Finish(&ids);
    if (absl::Status status = CheckIds(ids); !status.ok()) return status;
    const auto bos = std::find(ids.begin(), ids.end(), config_.ids.bos);
    auto mask = std::find(ids.begin(), bos, config_.ids.gmask);
    if (mask == bos && config_.ids.mask >= 0) mask = std::find(ids.begin(), bos, config_.ids.mask);
    if (mask == bos) {
      return absl::InvalidArgumentError(
          "the prompt has neither [gMASK] nor [MASK] before <sop>; put one there, or leave <sop> "
          "out");
    }
    Prompt prompt;
    prompt.bidirectional = static_cast<int32_t>(bos - ids.begin());
    const int32_t at = static_cast<int32_t>(mask - ids.begin());
    const int32_t count = static_cast<int32_t>(ids.size());
    for (int32_t i = 0; i < count; ++i) {
      const bool context = i < prompt.bidirectional;
      prompt.positions[0].push_back(context ? i : at);
      prompt.positions[1].push_back(context ? 0 : i - prompt.bidirectional + 1);
    }
    prompt.blanks.push_back(
        {.mask = at, .position = {at, count - prompt.bidirectional + 1}, .stride = {0, 1}});
    prompt.tokens = std::move(ids);
    return prompt;
  }

  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                              std::span<const PromptPart> text) const override {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeParts(tokenizer, text);
    if (ids.ok()) Finish(&*ids);
    return ids;
  }

  const std::vector<int32_t>& end_tokens() const override { return end_tokens_; }

 private:
  // [gMASK], unless the text has a mask, and bos.
  void Finish(std::vector<int32_t>* ids) const {
    const bool masked = std::any_of(ids->begin(), ids->end(), [this](int32_t id) {
      return id == config_.ids.gmask || (id >= 0 && id == config_.ids.mask);
    });
    if (!masked) ids->push_back(config_.ids.gmask);
    ids->push_back(config_.ids.bos);
  }

  const Config config_;
  const std::vector<int32_t> end_tokens_;
};

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"chatglm-6b",
     R"({"model_type":"chatglm","num_layers":28,"hidden_size":4096,"inner_hidden_size":16384,)"
     R"("num_attention_heads":32,"max_sequence_length":2048,"layernorm_epsilon":1e-5,)"
     R"("vocab_size":130528,"mask_token_id":130000,"gmask_token_id":130001,)"
     R"("bos_token_id":130004,"eos_token_id":130005,"position_encoding_2d":true})"},
};

std::string_view ChatFormatName(const nlohmann::json&) { return "chatglm-6b"; }

bool Matches(const nlohmann::json& json) {
  return json.value("model_type", "") == "chatglm" && !json.contains("ffn_hidden_size");
}

// SwissArmyTransformer has another name of the head, and queries, keys and values in thirds.
constexpr char kSatHead[] = "mixins.chatglm-final.lm_head.weight";

TensorSources Sources(const nlohmann::json&, const TensorSpec& tensor) {
  TensorSources sources = PostNormSources(tensor, /*gated=*/false);
  if (tensor.name == "lm_head.weight") sources.others = {Renamed(tensor, kSatHead)};
  if (tensor.by_head > 0) sources.thirds_where = kSatHead;
  return sources;
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<ChatGlm6b>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kChatGlm6bFamily = {.name = "chatglm-6b",
                                             .matches = Matches,
                                             .describe = Describe,
                                             .create = Create,
                                             .sources = Sources,
                                             .chat_format = ChatFormatName,
                                             .shapes = kShapes};

}  // namespace qianyi
