// The tokenizer of a picture model, for all that works with any tokenizer.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// `config`: the model's. Reads its text model: what "tokenizer": {"model_file"} names, else
// cog-pretrain.model or tokenizer.model; NotFound when there is none. With `specials` a text is a
// query, in which [MASK] is its own id; the bytes of image codes are empty.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenCogViewTokenizer(const std::string& folder,
                                                                const nlohmann::json& config);

}  // namespace qianyi
