#include "runtime/models/gguf_config.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace qianyi {

void GgufConfig::Fail(const std::string& what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(what);
}

int64_t GgufConfig::Int(std::string_view key) {
  const int64_t value = Int(key, -1);
  if (value < 0) Fail(absl::StrFormat("lacks the metadata %s%s", prefix_, key));
  return std::max<int64_t>(value, 0);
}

int64_t GgufConfig::Int(std::string_view key, int64_t absent) {
  const std::string full = prefix_ + std::string(key);
  if (!gguf_.metadata.contains(full)) return absent;
  const std::optional<int64_t> value = gguf_.Int(full);
  if (value && *value >= 0 && *value <= std::numeric_limits<int32_t>::max()) return *value;
  Fail(absl::StrFormat("has %s = %d; it must be a whole number from 0 to 2147483647", full,
                       value.value_or(-1)));
  return 0;
}

double GgufConfig::Number(std::string_view key, double absent) {
  const std::string full = prefix_ + std::string(key);
  if (!gguf_.metadata.contains(full)) return absent;
  const std::optional<double> value = gguf_.Number(full);
  if (!value) Fail(absl::StrFormat("has %s that is no number", full));
  // Floats were rounded once: take the shortest decimal that rounds to the same.
  double number = value.value_or(0);
  (void)absl::SimpleAtod(absl::StrFormat("%.7g", number), &number);
  return number;
}

void GgufConfig::Require(std::string_view key, int64_t value) {
  const int64_t has = Int(key, value);
  if (has == value) return;
  Fail(absl::StrFormat("has %s%s = %d; only %d can be run with the rest of its metadata", prefix_,
                       key, has, value));
}

int64_t GgufConfig::VocabSize() {
  const SourceTensor* table = gguf_.Find("token_embd.weight");
  if (table != nullptr && table->shape.size() == 2) return table->shape[0];
  Fail("lacks the tensor token_embd.weight");
  return 0;
}

nlohmann::json GgufConfig::TransformersFields() {
  const int64_t hidden = Int("embedding_length"), heads = Int("attention.head_count");
  const int64_t head_dim = Int("attention.key_length", heads > 0 ? hidden / heads : 0);
  const int64_t drafts = Int("nextn_predict_layers", 0);  // which block_count counts
  const int64_t rotary = Int("rope.dimension_count", head_dim / 2);
  if (head_dim == 0)
    Fail(absl::StrFormat("has heads of no width: %sattention.head_count", prefix_));
  return {{"num_hidden_layers", Int("block_count") - drafts},
          {"num_nextn_predict_layers", drafts},
          {"hidden_size", hidden},
          {"intermediate_size", Int("feed_forward_length")},
          {"num_attention_heads", heads},
          {"num_key_value_heads", Int("attention.head_count_kv", heads)},
          {"head_dim", head_dim},
          {"vocab_size", VocabSize()},
          {"max_position_embeddings", Int("context_length")},
          {"rms_norm_eps", Number("attention.layer_norm_rms_epsilon", 1e-5)},
          {"rope_theta", Number("rope.freq_base", 1e4)},
          {"partial_rotary_factor",
           head_dim == 0 ? 0 : static_cast<double>(rotary) / static_cast<double>(head_dim)},
          {"attention_bias", gguf_.Find("blk.0.attn_q.bias") != nullptr},
          {"tie_word_embeddings", gguf_.Find("output.weight") == nullptr},
          {"hidden_act", "silu"},
          {"eos_token_id", EndTokens()},
          {"_name_or_path", gguf_.Text("general.name")}};
}

std::vector<int64_t> GgufConfig::EndTokens() const {
  std::vector<int64_t> ends;
  const auto add = [&](int64_t id) {
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  add(gguf_.Int("tokenizer.ggml.eos_token_id").value_or(-1));
  add(gguf_.Int("tokenizer.ggml.eot_token_id").value_or(-1));
  add(gguf_.Int("tokenizer.ggml.eom_token_id").value_or(-1));
  if (const std::vector<std::string>* tokens = gguf_.Texts("tokenizer.ggml.tokens")) {
    for (const char* word : {"<|endoftext|>", "<|user|>", "<|observation|>"}) {
      const auto found = std::find(tokens->begin(), tokens->end(), word);
      if (found != tokens->end()) add(found - tokens->begin());
    }
  }
  return ends;
}

}  // namespace qianyi
