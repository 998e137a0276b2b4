#include "server/http/rest_answer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "runtime/verse/verse_text.h"
#include "server/error.h"
#include "server/http/rest_logprobs.h"
#include "server/request_id.h"
#include "server/unix_time.h"

namespace qianyi {
namespace {

using nlohmann::json;

// Stands for a piece of text: of characters that no name of a model has.
constexpr std::string_view kPiece = "\x01piece\x01";

TextEvent EventAround(int blank, const json& delta) {
  TextEvent event{.blank = blank, .before = "", .after = ""};
  if (delta.is_null()) return event;
  const std::string whole = "data: " + Dump(delta) + "\n\n", piece = Dump(kPiece);
  const size_t at = whole.find(piece);
  event.before = whole.substr(0, at);
  event.after = whole.substr(at + piece.size());
  return event;
}

class CompletionAnswer final : public RestAnswer {
 public:
  using RestAnswer::RestAnswer;

 protected:
  // `text` grows by the first blank only, so that clients which know of one may join it.
  json Delta(int choice, int blank, std::string_view text) const override {
    json entry = {{"index", choice},
                  {"text", blank == 0 ? text : ""},
                  {"logprobs", nullptr},
                  {"finish_reason", nullptr}};
    if (blank > 0) entry["blank"] = {{"index", blank}, {"text", text}};
    return Chunk(std::move(entry));
  }
  json Last(int choice) const override {
    json entry = {{"index", choice},
                  {"text", ""},
                  {"logprobs", nullptr},
                  {"finish_reason", NameOf(choices_[choice].finish)}};
    if (choices_[choice].blanks.size() > 1) entry["blanks"] = choices_[choice].blanks;
    return Chunk(std::move(entry));
  }
  json Closing(const Usage& usage) const override {
    if (!include_usage_) return nullptr;
    json chunk = Base("text_completion");
    chunk["choices"] = json::array();
    chunk["usage"] = ToJson(usage);
    return chunk;
  }
  json Whole(const Usage& usage) const override {
    json answer = Base("text_completion");
    answer["choices"] = json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      answer["choices"].push_back({{"index", i},
                                   {"text", choices_[i].blanks[0]},
                                   {"blanks", choices_[i].blanks},
                                   {"logprobs", ReportOf(choices_[i])},
                                   {"finish_reason", NameOf(choices_[i].finish)}});
    }
    answer["usage"] = ToJson(usage);
    answer["seed"] = seed_;
    return answer;
  }
  json Logprobs(std::span<const TokenReport> tokens) const override {
    return CompletionLogprobs(tokens);
  }

 private:
  json Chunk(json entry) const {
    json chunk = Base("text_completion");
    chunk["choices"] = json::array({std::move(entry)});
    if (include_usage_) chunk["usage"] = nullptr;
    return chunk;
  }
};

class ChatAnswer final : public RestAnswer {
 public:
  using RestAnswer::RestAnswer;

 protected:
  json First(int choice) const override {
    return Chunk(choice, {{"role", "assistant"}, {"content", ""}}, nullptr);
  }
  json Delta(int choice, int blank, std::string_view text) const override {
    return blank == 0 ? Chunk(choice, {{"content", text}}, nullptr) : json();
  }
  json ReasoningDelta(int choice, std::string_view text) const override {
    return Chunk(choice, {{"reasoning_content", text}}, nullptr);
  }
  json CallBegin(int choice, int index) const override {
    json call = CallJson(choices_[choice].tool_calls[index]);
    call["index"] = index;
    call["function"]["arguments"] = "";
    return Chunk(choice, {{"tool_calls", json::array({std::move(call)})}}, nullptr);
  }
  json CallArguments(int choice, int index) const override {
    json call = {{"index", index},
                 {"function", {{"arguments", choices_[choice].tool_calls[index].arguments}}}};
    return Chunk(choice, {{"tool_calls", json::array({std::move(call)})}}, nullptr);
  }
  json Last(int choice) const override {
    return Chunk(choice, json::object(), FinishOf(choices_[choice]));
  }
  json Closing(const Usage& usage) const override {
    if (!include_usage_) return nullptr;
    json chunk = Base("chat.completion.chunk");
    chunk["choices"] = json::array();
    chunk["usage"] = ToJson(usage);
    return chunk;
  }
  json Whole(const Usage& usage) const override {
    json answer = Base("chat.completion");
    answer["choices"] = json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      answer["choices"].push_back({{"index", i},
                                   {"message", Message(choices_[i])},
                                   {"logprobs", ReportOf(choices_[i])},
                                   {"finish_reason", FinishOf(choices_[i])}});
    }
    answer["usage"] = ToJson(usage);
    answer["seed"] = seed_;
    return answer;
  }
  json Logprobs(std::span<const TokenReport> tokens) const override { return ChatLogprobs(tokens); }

 private:
  static json CallJson(const ToolCall& call) {
    return {{"id", call.id},
            {"type", "function"},
            {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
  }
  static const char* FinishOf(const ChoiceText& choice) {
    const bool calls = choice.finish == FinishReason::kStop && !choice.tool_calls.empty();
    return calls ? "tool_calls" : NameOf(choice.finish);
  }
  // Content is null beside calls when there is none; what is not there is left out.
  static json Message(const ChoiceText& choice) {
    json message = {{"role", "assistant"}, {"content", choice.blanks[0]}, {"refusal", nullptr}};
    if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
    if (choice.tool_calls.empty()) return message;
    if (choice.blanks[0].empty()) message["content"] = nullptr;
    for (const ToolCall& call : choice.tool_calls) message["tool_calls"].push_back(CallJson(call));
    return message;
  }
  json Chunk(int choice, json delta, json finish) const {
    json chunk = Base("chat.completion.chunk");
    chunk["choices"] = json::array({{{"index", choice},
                                     {"delta", std::move(delta)},
                                     {"logprobs", nullptr},
                                     {"finish_reason", std::move(finish)}}});
    if (include_usage_) chunk["usage"] = nullptr;
    return chunk;
  }
};

class TaskAnswer final : public RestAnswer {
 public:
  TaskAnswer(const RestRequest& request, const Accepted& accepted, std::string prefix,
             std::shared_ptr<HttpReply> reply)
      : RestAnswer(request, accepted, std::move(prefix), std::move(reply)),
        object_("task." + InfoOf(std::get<TaskInput>(request.text.input).task).name) {}

 protected:
  json Delta(int, int, std::string_view text) const override {
    json chunk = Base((object_ + ".chunk").c_str());
    chunk["delta"] = text;
    return chunk;
  }
  json Last(int) const override { return nullptr; }
  json Closing(const Usage& usage) const override { return Whole(usage); }
  json Whole(const Usage& usage) const override {
    json answer = Base(object_.c_str());
    answer["text"] = choices_[0].blanks[0];
    answer["lines"] = Clauses(choices_[0].blanks[0]);
    answer["finish_reason"] = NameOf(choices_[0].finish);
    answer["usage"] = ToJson(usage);
    answer["seed"] = seed_;
    return answer;
  }

 private:
  const std::string object_;
};

}  // namespace

RestAnswer::RestAnswer(const RestRequest& request, const Accepted& accepted, std::string id_prefix,
                       std::shared_ptr<HttpReply> reply)
    : id_(NewId(id_prefix)),
      model_(accepted.model_name),
      created_seconds_(UnixSeconds()),
      seed_(accepted.seed),
      include_usage_(request.include_usage),
      logprobs_(request.text.parameters.sampling.report_logprob),
      stream_(request.stream),
      reply_(std::move(reply)) {
  choices_.resize(static_cast<size_t>(request.text.parameters.n));
  for (ChoiceText& choice : choices_) choice.blanks.resize(static_cast<size_t>(accepted.blanks));
}

json RestAnswer::ReportOf(const ChoiceText& choice) const {
  return logprobs_ ? Logprobs(choice.tokens) : json();
}

json RestAnswer::Base(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_seconds_}, {"model", model_}};
}

void RestAnswer::Event(const json& value) {
  if (!value.is_null()) reply_->Write("data: " + Dump(value) + "\n\n");
}

void RestAnswer::SendText(int choice, int blank, std::string_view text) {
  if (logprobs_) {
    ChoiceEvent(choice, Delta(choice, blank, text));
    return;
  }
  TextEvent& event = choices_[choice].text_event;
  if (event.blank != blank) event = EventAround(blank, Delta(choice, blank, kPiece));
  if (event.before.empty()) return;
  std::string bytes = event.before;
  bytes.append(Dump(text)).append(event.after);
  reply_->Write(std::move(bytes));
}

void RestAnswer::ChoiceEvent(int choice, json value) {
  ChoiceText& written = choices_[choice];
  if (value.is_object() && written.shown_tokens < written.tokens.size()) {
    const auto tokens = std::span<const TokenReport>(written.tokens).subspan(written.shown_tokens);
    value["choices"][0]["logprobs"] = Logprobs(tokens);
    written.shown_tokens = written.tokens.size();
  }
  Event(value);
}

void RestAnswer::BeginStream() {
  if (begun_ || !stream_) return;
  begun_ = true;
  reply_->BeginStream({.status = 200,
                       .content_type = "text/event-stream",
                       .body = "",
                       .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  for (size_t i = 0; i < choices_.size(); ++i) Event(First(static_cast<int>(i)));
}

void RestAnswer::OnText(int choice, int blank, std::string_view text) {
  choices_[choice].blanks[blank].append(text);
  BeginStream();
  if (stream_) SendText(choice, blank, text);
}

void RestAnswer::OnReasoning(int choice, std::string_view text) {
  choices_[choice].reasoning.append(text);
  BeginStream();
  if (stream_) ChoiceEvent(choice, ReasoningDelta(choice, text));
}

void RestAnswer::OnToolCall(int choice, int index, const ToolCall& call) {
  std::vector<ToolCall>& calls = choices_[choice].tool_calls;
  calls.push_back(call);
  calls.back().id = NewId("call_");
  BeginStream();
  if (!stream_) return;
  ChoiceEvent(choice, CallBegin(choice, index));
  Event(CallArguments(choice, index));
}

void RestAnswer::OnTokens(int choice, std::vector<TokenReport> tokens) {
  if (!logprobs_) return;  // they were wanted for something else
  std::vector<TokenReport>& all = choices_[choice].tokens;
  std::move(tokens.begin(), tokens.end(), std::back_inserter(all));
}

void RestAnswer::OnBlankEnd(int choice, int blank, FinishReason why) {
  ChoiceText& written = choices_[choice];
  if (why == FinishReason::kLength) written.finish = why;
  if (blank + 1 < static_cast<int>(written.blanks.size())) return;
  written.ended = true;
  BeginStream();
  if (stream_) ChoiceEvent(choice, Last(choice));
}

void RestAnswer::OnEnd(const absl::Status& status, const Usage& usage) {
  if (!stream_ || !begun_) {
    if (status.ok()) {
      reply_->Send({.status = 200,
                    .content_type = "application/json",
                    .body = Dump(Whole(usage)) + "\n",
                    .headers = {}});
    } else {
      reply_->Send(ErrorResponse(status));
    }
    return;
  }
  if (status.ok()) {
    Event(Closing(usage));
    reply_->Write("data: [DONE]\n\n");
  } else {  // the status line is gone: the error is an event, as OpenAI's clients expect
    reply_->Write("data: " + ToJson(ToApiError(status)) + "\n\n");
  }
  reply_->EndStream();
}

std::unique_ptr<RestAnswer> MakeCompletionAnswer(const RestRequest& request,
                                                 const Accepted& accepted,
                                                 std::shared_ptr<HttpReply> reply) {
  return std::make_unique<CompletionAnswer>(request, accepted, "cmpl-", std::move(reply));
}

std::unique_ptr<RestAnswer> MakeChatAnswer(const RestRequest& request, const Accepted& accepted,
                                           std::shared_ptr<HttpReply> reply) {
  return std::make_unique<ChatAnswer>(request, accepted, "chatcmpl-", std::move(reply));
}

std::unique_ptr<RestAnswer> MakeTaskAnswer(const RestRequest& request, const Accepted& accepted,
                                           std::shared_ptr<HttpReply> reply) {
  return std::make_unique<TaskAnswer>(request, accepted, "task-", std::move(reply));
}

HttpResponse ErrorResponse(const absl::Status& status) {
  const ApiError error = ToApiError(status);
  HttpResponse response;
  response.status = error.http_status;
  response.body = ToJson(error) + "\n";
  if (error.http_status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after_seconds > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_seconds));
  }
  return response;
}

}  // namespace qianyi
