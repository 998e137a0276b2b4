// The tasks a model is asked for by name, and the fields of each.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/prompts/text_template.h"

namespace qianyi {

enum class Task : uint8_t { kPoem, kCouplet, kSummary, kQuestion };

struct TaskField {
  std::string name;
  bool required = false;
};

struct TaskInfo {
  Task task;
  std::string name;  // "poem", "couplet", "summary", "qa": in the API, config.json and `score`
  std::vector<TaskField> fields;
};

const std::array<TaskInfo, 4>& Tasks();
const TaskInfo& InfoOf(Task task);
std::optional<Task> FindTask(std::string_view name);

// InvalidArgument that names the field when one that is required is missing, or one is longer
// than kMaxFieldBytes.
inline constexpr size_t kMaxFieldBytes = 64 << 10;
absl::Status CheckFields(Task task, const PromptFields& fields);

}  // namespace qianyi
