// Byte-level BPE as in GPT-2 (Radford et al. 2019): vocab.json and merges.txt. Bytes are
// written as printable characters in both files; ids are counted by vocab.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/byte_pair_merger.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/token_table.h"

namespace qianyi {

class Gpt2Bpe final : public TextTokenizer {
 public:
  // Errors name the file and the entry: NotFound, or InvalidArgument when it is not such a file.
  static absl::StatusOr<std::unique_ptr<Gpt2Bpe>> Open(const std::string& vocab_path,
                                                       const std::string& merges_path);
  // The same on the contents of both files; the names are for error messages.
  static absl::StatusOr<std::unique_ptr<Gpt2Bpe>> Parse(std::string_view vocab_json,
                                                        std::string_view merges,
                                                        const std::string& vocab_name,
                                                        const std::string& merges_name);

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override;
  int32_t size() const override { return tokens_.size(); }
  bool Contains(int32_t id) const override { return tokens_.Contains(id); }
  std::string_view Bytes(int32_t id, bool* run_start) const override;

 private:
  Gpt2Bpe() = default;
  absl::Status ParseVocabulary(std::string_view json, const std::string& name,
                               std::unordered_map<std::string, int32_t>* ids);
  absl::Status ParseMerges(std::string_view text, const std::string& name,
                           const std::unordered_map<std::string, int32_t>& ids);

  TokenTable tokens_;
  // Merging works on symbols: distinct strings that bytes or merges can form, whether or not
  // the vocabulary knows them.
  std::vector<int32_t> symbol_ids_;  // by symbol; the first 256 are the bytes
  BytePairTable pairs_;
};

}  // namespace qianyi
