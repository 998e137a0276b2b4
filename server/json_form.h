// Answers that are JSON by a schema.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/constraint.h"
#include "runtime/sequence.h"
#include "server/served_model.h"
#include "server/text_request.h"

namespace qianyi {

// A form's constraint, made anew for each choice; null without a form.
using MakeConstraint = std::function<absl::StatusOr<std::unique_ptr<Constraint>>()>;

// Such an answer is neither a thought nor a call: InvalidArgument for a chat that wants one.
absl::Status CheckFormedChat(const ChatInput& chat);
// The constraint of request.json_form. InvalidArgument for what cannot be joined with one.
absl::StatusOr<MakeConstraint> JsonForm(const TextRequest& request, const Prompt& prompt,
                                        std::vector<int32_t> end_tokens, const ServedModel& model);

}  // namespace qianyi
