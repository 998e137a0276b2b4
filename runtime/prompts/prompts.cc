#include "runtime/prompts/prompts.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"

namespace qianyi {
namespace {

using nlohmann::json;

// THUDM/GLM's and iPrompt's strings with the blank in the continuation's place. The mask is a
// part of its own so that the text before it is tokenized in one piece, as in the original.
const json& BlankFillingPrompts() {
  static const json prompts = {
      {"tasks",
       {{"poem",
         {"{title}", " 作者:{author}", " 体裁:{form}", " 题名:{title}", " 正文:", "[gMASK]"}},
        {"couplet", {"上联:{upper} 下联:", "[gMASK]"}},
        {"summary", {"{text} 题目:", "[gMASK]"}},
        {"qa", {"问题:{question}", " 回答用户:{persona}", " 回答:", "[gMASK]"}}}},
      {"chat",
       {{"system", "{content} "},
        {"user", "问题:{content} "},
        {"assistant", "回答:{content} "},
        {"start", {"回答:", "[gMASK]"}}}}};
  return prompts;
}

// ChatGLM2's rounds; tasks are what a user would write.
const json& RoundPrompts() {
  static const json prompts = {{"tasks",
                                {{"poem",
                                  {"请写一首古诗，只写正文。", "体裁：{form}。",
                                   "题目：《{title}》。", "仿{author}的风格。"}},
                                 {"couplet", "请对下联，只写下联。上联：{upper}"},
                                 {"summary", "请给下文拟一个题目，只写题目。\n\n{text}"},
                                 {"qa", {"请以{persona}的身份回答。", "{question}"}}}},
                               {"chat",
                                {{"system", "{content}\n\n"},
                                 {"user", "[Round {round}]\n\n问：{content}\n\n"},
                                 {"assistant", "答：{content}\n\n"},
                                 {"start", "答："}}}};
  return prompts;
}

// What stands at `section`.`name` of config.json, or else of the family's own table.
absl::StatusOr<TextTemplate> Read(const json& config, const json& standard, const char* section,
                                  const std::string& name, const char* inner,
                                  const std::vector<std::string>& fields) {
  const json* parts = &standard[section][name];
  const auto own = config.find(section);
  if (own != config.end()) {
    if (!own->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("config.json: %s must be an object", section));
    }
    if (const auto entry = own->find(name); entry != own->end()) {
      parts = &*entry;
      if (inner != nullptr) {
        if (!entry->is_object() || !entry->contains(inner)) {
          return absl::InvalidArgumentError(
              absl::StrFormat("config.json: %s.%s needs \"%s\"", section, name, inner));
        }
        parts = &(*entry)[inner];
      }
    }
  }
  return TextTemplate::Parse(*parts, absl::StrCat(section, ".", name), fields);
}

// The numbers of config.json at `section`."defaults".
absl::StatusOr<Prompts::Defaults> ReadDefaults(const json& section, const std::string& where) {
  Prompts::Defaults defaults;
  const json object = section.is_object() ? section.value("defaults", json()) : json();
  if (object.is_null()) return defaults;
  bool good = object.is_object();
  for (auto at = object.begin(); good && at != object.end(); ++at) {
    good = at->is_number();
    if (good) defaults.emplace_back(at.key(), at->get<double>());
  }
  if (good) return defaults;
  return absl::InvalidArgumentError(
      absl::StrFormat("config.json: %s.defaults must be an object of numbers", where));
}

// The format that "chat" names, or that the model's kind has; null for templates.
absl::StatusOr<const ChatFormat*> ReadFormat(const json& config) {
  const json chat = config.value("chat", json());
  if (!chat.is_object()) return ChatFormatOf(config);
  if (const auto format = chat.find("format"); format != chat.end()) {
    const ChatFormat* found =
        format->is_string() ? FindChatFormat(format->get<std::string>()) : nullptr;
    if (found != nullptr) return found;
    std::string names;
    for (const ChatFormat& known : ChatFormats()) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(known.name));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("config.json: chat.format is %s; it must be one of %s",
                        format->dump(-1, ' ', true, json::error_handler_t::replace), names));
  }
  for (const char* part : {"system", "user", "assistant", "start"}) {
    if (chat.contains(part)) return nullptr;
  }
  return ChatFormatOf(config);
}

// Text runs on across parts, as it does in the original's one string; only a part whose command
// words act stands alone.
absl::StatusOr<std::vector<int32_t>> Encode(const std::vector<PromptPart>& parts,
                                            const Model& model, const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  std::vector<bool> commands;
  for (const PromptPart& part : parts) {
    bool acts = false;
    if (part.commands) {
      const auto with = tokenizer.Encode(part.text, true);
      const auto without = tokenizer.Encode(part.text, false);
      if (!with.ok()) return with.status();
      acts = without.ok() && *with != *without;
    }
    if (!acts && !texts.empty() && !commands.back()) {
      texts.back().append(part.text);
    } else {
      texts.emplace_back(part.text);
      commands.push_back(acts);
    }
  }
  std::vector<PromptPart> joined;
  for (size_t i = 0; i < texts.size(); ++i) joined.push_back({texts[i], commands[i]});
  return model.Encode(tokenizer, joined);
}

absl::Status CheckMessages(std::span<const ChatMessage> messages, const ChatFormat* format) {
  const bool tools = format != nullptr && format->tools;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const std::string& role = message.role;
    const bool known = role == "system" || role == "user" || role == "assistant";
    if (!known && !(tools && role == "tool")) {
      return absl::InvalidArgumentError(
          absl::StrFormat("messages[%d].role is '%s'; it must be system, user%s", i, role,
                          tools ? ", assistant or tool"
                                : " or assistant, as this model's chat format has no tools"));
    }
    if (!message.tool_calls.empty() && !tools) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "messages[%d].tool_calls: this model's chat format has no tools; remove them", i));
    }
  }
  const bool ends = !messages.empty() &&
                    (messages.back().role == "user" || (tools && messages.back().role == "tool"));
  if (ends) return absl::OkStatus();
  return absl::InvalidArgumentError(tools ? "messages must end with one of role user or tool"
                                          : "messages must end with one of role user");
}

}  // namespace

absl::StatusOr<Prompts> Prompts::Of(const ModelSpec& spec) {
  const json config = ParseJson(spec.config_json);
  // ChatGLM-6B sees its whole context too, but is asked as chat models are.
  const bool fills_blanks = spec.bidirectional && ChatFormatOf(config) == nullptr;
  const json& standard = fills_blanks ? BlankFillingPrompts() : RoundPrompts();
  Prompts prompts;
  prompts.tasks_by_chat_ = !fills_blanks && !config.contains("tasks");
  for (const TaskInfo& info : Tasks()) {
    std::vector<std::string> fields;
    for (const TaskField& field : info.fields) fields.push_back(field.name);
    auto read = Read(config, standard, "tasks", info.name, "prompt", fields);
    if (!read.ok()) return read.status();
    prompts.tasks_[static_cast<size_t>(info.task)] = *std::move(read);
    const json own = config.value("tasks", json());
    auto defaults =
        ReadDefaults(own.is_object() ? own.value(info.name, json()) : json(), "tasks." + info.name);
    if (!defaults.ok()) return defaults.status();
    prompts.task_defaults_[static_cast<size_t>(info.task)] = *std::move(defaults);
  }
  for (auto [name, to] : {std::pair{"system", &prompts.system_},
                          {"user", &prompts.user_},
                          {"assistant", &prompts.assistant_},
                          {"start", &prompts.start_}}) {
    auto read = Read(config, standard, "chat", name, nullptr, {"content", "round"});
    if (!read.ok()) return read.status();
    *to = *std::move(read);
  }
  absl::StatusOr<const ChatFormat*> format = ReadFormat(config);
  if (!format.ok()) return format.status();
  prompts.format_ = *format;
  auto defaults = ReadDefaults(config.value("chat", json()), "chat");
  if (!defaults.ok()) return defaults.status();
  prompts.chat_defaults_ = *std::move(defaults);
  return prompts;
}

absl::StatusOr<std::vector<int32_t>> Prompts::EncodeTask(Task task, const PromptFields& fields,
                                                         const Model& model,
                                                         const Tokenizer& tokenizer) const {
  if (absl::Status status = CheckFields(task, fields); !status.ok()) return status;
  std::vector<PromptPart> parts;
  tasks_[static_cast<size_t>(task)].Fill(fields, &parts);
  if (!tasks_by_chat_) return Encode(parts, model, tokenizer);
  ChatMessage message{"user", ""};
  for (const PromptPart& part : parts) message.content.append(part.text);
  return EncodeChat({&message, 1}, TaskOptions(), model, tokenizer);
}

ChatOptions Prompts::TaskOptions() {
  ChatOptions options;
  options.thinking = false;
  return options;
}

absl::StatusOr<std::vector<int32_t>> Prompts::EncodeChat(std::span<const ChatMessage> messages,
                                                         const ChatOptions& options,
                                                         const Model& model,
                                                         const Tokenizer& tokenizer) const {
  absl::Status status = CheckMessages(messages, format_);
  if (!status.ok()) return status;
  if (format_ == nullptr) return EncodeByTemplates(messages, model, tokenizer);
  ChatWriter writer;
  format_->write(messages, options, &writer);
  writer.Literal(format_->begin_call(options));
  return writer.Encode(tokenizer);
}

absl::StatusOr<std::vector<int32_t>> Prompts::EncodeByTemplates(
    std::span<const ChatMessage> messages, const Model& model, const Tokenizer& tokenizer) const {
  std::vector<PromptFields> fields(messages.size());  // the parts' views live in here
  std::vector<PromptPart> parts;
  int round = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "user") ++round;
    fields[i] = {{"content", messages[i].content}, {"round", absl::StrCat(round)}};
    if (role == "user") {
      user_.Fill(fields[i], &parts);
    } else if (role == "assistant") {
      assistant_.Fill(fields[i], &parts);
    } else {
      system_.Fill(fields[i], &parts);
    }
  }
  start_.Fill({}, &parts);
  return Encode(parts, model, tokenizer);
}

}  // namespace qianyi
