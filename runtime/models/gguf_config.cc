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
