#include "runtime/prompts/task.h"

#include "absl/strings/str_format.h"

namespace qianyi {

const std::array<TaskInfo, 4>& Tasks() {
  static const std::array<TaskInfo, 4> tasks = {{
      {Task::kPoem, "poem", {{"title"}, {"form"}, {"author"}}},
      {Task::kCouplet, "couplet", {{"upper", true}}},
      {Task::kSummary, "summary", {{"text", true}}},
      {Task::kQuestion, "qa", {{"question", true}, {"persona"}}},
  }};
  return tasks;
}

const TaskInfo& InfoOf(Task task) { return Tasks()[static_cast<size_t>(task)]; }

std::optional<Task> FindTask(std::string_view name) {
  for (const TaskInfo& info : Tasks()) {
    if (info.name == name) return info.task;
  }
  return std::nullopt;
}

absl::Status CheckFields(Task task, const PromptFields& fields) {
  for (const TaskField& field : InfoOf(task).fields) {
    const auto at = fields.find(field.name);
    const bool absent = at == fields.end() || at->second.empty();
    if (absent && field.required) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s is missing; the task %s needs it", field.name, InfoOf(task).name));
    }
    if (!absent && at->second.size() > kMaxFieldBytes) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s has %d bytes; at most %d are taken", field.name, at->second.size(), kMaxFieldBytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace qianyi
