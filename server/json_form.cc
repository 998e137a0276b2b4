#include "server/json_form.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/json/json_constraint.h"
#include "server/error.h"

namespace qianyi {

absl::Status CheckFormedChat(const ChatInput& chat) {
  if (!chat.options.tools.empty() && chat.options.choice != ToolChoice::kNone) {
    return BadParam("response_format",
                    "response_format and tools are asked for together; remove one of them, or set "
                    "tool_choice to none");
  }
  if (!chat.thinking.value_or(false)) return absl::OkStatus();
  return BadParam(chat.thinking_param,
                  absl::StrFormat("%s asks to think, which an answer with a response_format has no "
                                  "room for; remove one of them",
                                  chat.thinking_param));
}

absl::StatusOr<MakeConstraint> JsonForm(const TextRequest& request, const Prompt& prompt,
                                        std::vector<int32_t> end_tokens, const ServedModel& model) {
  if (std::holds_alternative<TaskInput>(request.input)) {
    return BadParam("response_format", "tasks have forms of their own; ask for a chat instead");
  }
  if (prompt.blanks.size() != 1) {
    return BadParam("response_format", absl::StrFormat("response_format works with one blank; this "
                                                       "prompt has %d",
                                                       prompt.blanks.size()));
  }
  if (!request.parameters.stop.empty()) {
    return BadParam("stop", "stop would cut the JSON of response_format; remove one of them");
  }
  MakeConstraint make = [trie = model.trie.get(), schema = *request.json_form,
                         ends = std::move(end_tokens)] {
    return MakeJsonConstraint(*trie, schema, ends);
  };
  // What can be wrong is wrong every time.
  if (auto trial = make(); !trial.ok()) return WithParam(trial.status(), "response_format");
  return make;
}

}  // namespace qianyi
