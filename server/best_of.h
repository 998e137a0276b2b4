// Of several answers, the likeliest.
#pragma once

#include <memory>

#include "server/text_call.h"

namespace qianyi {

// Listens to `candidates` choices with reports of their tokens, and tells `to` at the end of the
// `best` that have the highest mean logprob of a token, best first, as choices 0, 1, …; of equal
// ones the earlier, and empty ones last. The usage is that of all.
std::unique_ptr<CallListener> MakeBestOf(int best, int candidates,
                                         std::unique_ptr<CallListener> to);

}  // namespace qianyi
