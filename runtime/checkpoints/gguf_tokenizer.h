// The vocabulary in a GGUF file's metadata as the file that Qianyi's tokenizers read.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/gguf.h"

namespace qianyi {

// Name and content: tokenizer.json for byte-level BPE, tokenizer.model for sentencepiece, none when
// the file has no vocabulary. Unimplemented for kinds that no GLM has.
absl::StatusOr<std::map<std::string, std::string>> TokenizerFiles(const Gguf& gguf);

}  // namespace qianyi
