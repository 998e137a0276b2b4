// tokenizer.json of the Hugging Face tokenizers library, as far as GLM's models use it: byte-level
// BPE with added tokens. Whatever else such a file can ask for is refused by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// `name` is for error messages: InvalidArgument when the file is malformed, Unimplemented for a
// component or a pattern that we do not have. What a post-processor would put around a text is
// left out: prompts and chat formats say that.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view file,
                                                              const std::string& name);

}  // namespace qianyi
