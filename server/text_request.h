// A request for text, whichever front end it came through.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/json/json_schema.h"
#include "runtime/prompts/prompts.h"
#include "runtime/prompts/task.h"
#include "server/access/key_ring.h"
#include "server/parameters.h"

namespace qianyi {

// Command words in the prompt act: [MASK] is a blank.
struct CompletionInput {
  std::string prompt;
  std::vector<int32_t> prompt_ids;  // instead of the text, when not empty
  std::string suffix;               // then the blank is between the two
};

struct ChatInput {
  std::vector<ChatMessage> messages;
  ChatOptions options = {};
  std::optional<bool> thinking = std::nullopt;  // what the request says of options.thinking
  std::string thinking_param = "";              // where it says so
};

struct TaskInput {
  Task task = Task::kPoem;
  PromptFields fields;
  std::optional<bool> rhyme = std::nullopt;  // of poems; by default where the form has rhymes
  bool tones = false;                        // 平仄, of regulated poems and couplets
};

struct TextRequest {
  std::string model;  // may be empty when one model is served
  std::variant<CompletionInput, ChatInput, TaskInput> input;
  Parameters parameters;
  Caller caller = {};
  bool batch = false;                                  // may wait until nothing else does
  int64_t body_bytes = 0;                              // as it was received
  std::optional<JsonSchema> json_form = std::nullopt;  // that the answer follows; not of tasks
  bool streamed = false;                               // answered while it is written
};

// An adapter to load while the server runs.
struct AdapterRequest {
  std::string model;  // may be empty when one model is served
  std::string name;
  std::string path;  // relative to the folder that the operator named
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of those: they had been computed for earlier requests
  int64_t completion_tokens = 0;
  int64_t reasoning_tokens = 0;  // of those, before the answer itself began
};

}  // namespace qianyi
