// From what a user asks for to prompt tokens: tasks and conversations.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_message.h"
#include "runtime/model.h"
#include "runtime/prompts/task.h"
#include "runtime/prompts/text_template.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// How one model is asked. Its config.json may say so:
//   "tasks": {"poem": {"prompt": ["《{title}》", "：[gMASK]"]}, …}
//   "chat": {"system": […], "user": ["问：{content}"], "assistant": […], "start": ["答：[gMASK]"]}
// each with "defaults": {"temperature": 0.8}, numbers for parameters that a request leaves open,
// and with places {content} and {round} (1 for the first message of the user). Where it does not,
// the prompts published with the GLM models are used. A model of the ChatGLM line has a chat format
// (runtime/chat) instead of templates, which "chat": {"format": "glm4.5"} may name as well.
// Immutable, thread-safe.
class Prompts {
 public:
  // InvalidArgument for a malformed table.
  static absl::StatusOr<Prompts> Of(const ModelSpec& spec);

  // Parameters and their values, for requests that do not set them.
  using Defaults = std::vector<std::pair<std::string, double>>;
  const Defaults& TaskDefaults(Task task) const {
    return task_defaults_[static_cast<size_t>(task)];
  }
  const Defaults& ChatDefaults() const { return chat_defaults_; }

  // Ids for Model::LayOut. InvalidArgument names a missing field or a text that is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> EncodeTask(Task task, const PromptFields& fields,
                                                  const Model& model,
                                                  const Tokenizer& tokenizer) const;
  // Null when conversations are written by templates, which have neither tools nor thinking.
  const ChatFormat* chat_format() const { return format_; }
  // The format of tasks, which are a user's message where the config has no templates for them.
  const ChatFormat* task_format() const { return tasks_by_chat_ ? format_ : nullptr; }
  static ChatOptions TaskOptions();  // without thinking
  // The last message is the user's, or a tool's. What messages say is text: control words in it do
  // nothing. InvalidArgument names a message of a kind that the model's format does not have.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(std::span<const ChatMessage> messages,
                                                  const ChatOptions& options, const Model& model,
                                                  const Tokenizer& tokenizer) const;

 private:
  absl::StatusOr<std::vector<int32_t>> EncodeByTemplates(std::span<const ChatMessage> messages,
                                                         const Model& model,
                                                         const Tokenizer& tokenizer) const;

  std::array<TextTemplate, 4> tasks_;
  bool tasks_by_chat_ = false;  // a task is a user's message
  std::array<Defaults, 4> task_defaults_;
  Defaults chat_defaults_;
  const ChatFormat* format_ = nullptr;
  TextTemplate system_, user_, assistant_, start_;
};

}  // namespace qianyi
