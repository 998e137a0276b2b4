// GLM-130B: blank infilling with [MASK] and [sMASK], and from left to right behind [gMASK]. Zeng et
// al. 2022, arXiv:2210.02414; zai-org/GLM-130B.
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
  int32_t mask = -1, gmask = -1, smask = -1, sop = -1, eop = -1, eos = -1;
};
// The released vocabulary, known by its padded size.
constexpr int64_t kReleasedVocab = 150528;
constexpr SpecialIds kReleased = {150000, 150001, 150002, 150004, 150005, 20002};

struct Config {
  PostNormShape shape;
  SpecialIds ids;
  std::vector<int32_t> end_tokens;
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  PostNormShape& s = c.shape;
  s.layers = reader.Int("num_layers", 1, 1024);
  s.hidden = reader.Int("hidden_size", 1, 1 << 17);
  s.inner = reader.Int("inner_hidden_size", 1, 1 << 19);
  s.heads = reader.Int("num_attention_heads", 1, 1024);
  s.vocab = reader.Int("vocab_size", 1, 1 << 24);
  s.positions = reader.Int("max_sequence_length", 1, 1 << 24);
  s.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  s.rope_base = reader.Number("rotary_base", 1, 1e12, 1e4);
  s.gated = true;
  reader.MustBe("layernorm_order", "post");
  reader.MustBe("position_encoding_2d", false);
  reader.MustBe("tie_word_embeddings", true);
  const SpecialIds known = s.vocab == kReleasedVocab ? kReleased : SpecialIds();
  auto id = [&](std::string_view name, int32_t absent) {
    return reader.Id("special_token_ids", name, s.vocab, absent);
  };
  c.ids = {id("[MASK]", known.mask), id("[gMASK]", known.gmask), id("[sMASK]", known.smask),
           id("sop", known.sop),     id("eop", known.eop),       id("eos", known.eos)};
  std::vector<int32_t> ends;
  for (int32_t end : {c.ids.eop, c.ids.eos}) {
    if (end >= 0) ends.push_back(end);
  }
  c.end_tokens = reader.Ids("end_token_ids", s.vocab, ends);
  if (!reader.status().ok()) return reader.status();
  reader.Require(s.hidden % (2 * s.heads) == 0,
                 "hidden_size must be an even multiple of num_attention_heads");
  reader.Require(c.ids.sop >= 0 && c.ids.gmask >= 0,
                 "special_token_ids needs at least sop and [gMASK] when vocab_size is not 150528, "
                 "that of the released GLM-130B");
  if (!reader.status().ok()) return reader.status();
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  ModelSpec spec = DescribePostNorm(config->shape);
  spec.family = "glm-130b";
  return spec;
}

class Glm130b : public PostNormModel {
 public:
  Glm130b(Config config, const ModelFile& file)
      : PostNormModel(config.shape, file), config_(std::move(config)) {}

  // All before the first sop sees all of itself. With [gMASK] positions count on; with [MASK] or
  // [sMASK] sop and all that follows stand where the mask does, and only the mask of
  // attention orders them. Of several masks of one kind each is filled in a context that has
  // the earlier ones filled.
  absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const override {
    const bool has_start = std::find(ids.begin(), ids.end(), config_.ids.sop) != ids.end();
    if (!has_start) Finish(&ids);
    if (absl::Status status = CheckIds(ids); !status.ok()) return status;
    const auto begin = ids.begin();
    const auto sop = std::find(begin, ids.end(), config_.ids.sop);
    Prompt prompt;
    prompt.bidirectional = static_cast<int32_t>(sop - begin);
    const int32_t kind = KindOf({ids.data(), static_cast<size_t>(prompt.bidirectional)});
    const int32_t stride = kind == config_.ids.gmask ? 1 : 0;
    for (int32_t i = 0; i < prompt.bidirectional; ++i) {
      if (ids[i] != kind) continue;
      prompt.blanks.push_back({.start_token = config_.ids.sop,
                               .mask = i,
                               .position = {stride == 1 ? prompt.bidirectional : i, 0},
                               .stride = {stride, 0}});
    }
    if (prompt.blanks.empty()) {
      return absl::InvalidArgumentError(
          "the prompt has none of [MASK], [sMASK] and [gMASK] before sop; put one there, or leave "
          "sop out");
    }
    // What follows sop begins the first blank.
    prompt.refill = prompt.blanks.size() > 1 && ids.end() - sop == 1;
    if (!prompt.refill) prompt.blanks.resize(1);
    Blank& first = prompt.blanks.front();
    const int32_t kept = prompt.refill ? prompt.bidirectional : static_cast<int32_t>(ids.size());
    for (int32_t i = 0; i < kept; ++i) {
      const bool context = i < prompt.bidirectional;
      prompt.positions[0].push_back(context || stride == 1 ? i : first.mask);
    }
    prompt.positions[1].assign(kept, 0);
    if (!prompt.refill) {
      first.start_token = -1;
      if (stride == 1) first.position[0] = kept;
    }
    ids.resize(kept);
    prompt.tokens = std::move(ids);
    return prompt;
  }

  // A text without a mask gets a [gMASK] at its end. One whose only mask is a [gMASK] at its
  // beginning is read from left to right: nothing of it sees what follows.
  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                              std::span<const PromptPart> text) const override {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeParts(tokenizer, text);
    if (!ids.ok()) return ids.status();
    const bool from_left =
        ids->size() > 1 && ids->front() == config_.ids.gmask &&
        std::none_of(ids->begin() + 1, ids->end(), [this](int32_t id) { return IsMask(id); });
    if (from_left) {
      ids->insert(ids->begin() + 1, config_.ids.sop);
    } else {
      Finish(&*ids);
    }
    return ids;
  }

  const std::vector<int32_t>& end_tokens() const override { return config_.end_tokens; }

 private:
  bool IsMask(int32_t id) const {
    return id >= 0 &&
           (id == config_.ids.mask || id == config_.ids.gmask || id == config_.ids.smask);
  }
  // The kind of mask that is filled: [MASK] before [sMASK] before [gMASK].
  int32_t KindOf(std::span<const int32_t> context) const {
    for (const int32_t kind : {config_.ids.mask, config_.ids.smask}) {
      if (kind >= 0 && std::find(context.begin(), context.end(), kind) != context.end()) {
        return kind;
      }
    }
    return config_.ids.gmask;
  }
  // The mask, if there is none, the end of a text that goes on behind its mask, and sop.
  void Finish(std::vector<int32_t>* ids) const {
    const auto is_mask = [this](int32_t id) { return IsMask(id); };
    if (std::none_of(ids->begin(), ids->end(), is_mask)) ids->push_back(config_.ids.gmask);
    const int32_t last = ids->back();
    if (!IsMask(last) && last != config_.ids.eos && config_.ids.eos >= 0) {
      ids->push_back(config_.ids.eos);
    }
    ids->push_back(config_.ids.sop);
  }

  const Config config_;
};

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"glm-130b", R"({"model_type":"glm-130b","num_layers":70,"hidden_size":12288,)"
                 R"("inner_hidden_size":32768,"num_attention_heads":96,"max_sequence_length":2048,)"
                 R"("vocab_size":150528})"},
};

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "glm-130b"; }

TensorSources Sources(const nlohmann::json&, const TensorSpec& tensor) {
  return PostNormSources(tensor, /*gated=*/true);
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm130b>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kGlm130bFamily = {.name = "glm-130b",
                                           .matches = Matches,
                                           .describe = Describe,
                                           .create = Create,
                                           .sources = Sources,
                                           .shapes = kShapes};

}  // namespace qianyi
