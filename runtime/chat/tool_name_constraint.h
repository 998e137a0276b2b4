// Makes a model name one of the tools that a request offers, where one is demanded.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/constraint.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// Until one of `names` and then one of `after` have been written: only tokens that go on with them.
// A space may come first, as sentencepiece's pieces have it. What follows is free. Where no token
// of the vocabulary goes on, nothing is forbidden.
std::unique_ptr<Constraint> MakeToolNameConstraint(const Tokenizer& tokenizer,
                                                   std::span<const std::string> names,
                                                   std::span<const std::string_view> after);

}  // namespace qianyi
