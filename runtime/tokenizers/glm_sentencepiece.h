// The sentencepiece vocabularies of the ChatGLM line: what stands around the text's pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// tokenizer.model of ChatGLM2 and ChatGLM3: the pieces, then [MASK], [gMASK], [sMASK], sop, eop
// and the roles of ChatGLM3. In text only the words in brackets act, and "</s>" nowhere does.
// Sources: zai-org/ChatGLM2-6B, zai-org/ChatGLM3. `name` is for error messages.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseChatGlmPieces(std::string_view file,
                                                              const std::string& name);

// icetk's text model (ice_text.model), of GLM-130B and ChatGLM-6B: zai-org/icetk. Line breaks,
// tabs and runs of 2 to 80 spaces are pieces of their own; ids of text begin at `image_tokens`
// (20000 in GLM-130B and the first ChatGLM-6B, else 0), below them are pictures' codes. What the
// file lacks is added as the original adds it: commands, <|tab|>, blanks and the 256 bytes. A
// text that says "<n>" itself means a line break, as it does there.
struct IcetkOptions {
  int32_t image_tokens = 0;
  bool dummy_prefix = true;  // otherwise as if "<n>" stood before the text, and is dropped again
};
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseIcetk(std::string_view file,
                                                      const IcetkOptions& options,
                                                      const std::string& name);

}  // namespace qianyi
