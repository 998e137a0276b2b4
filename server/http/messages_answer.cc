// Answers of /v1/messages.
#include <algorithm>
#include <utility>

#include "runtime/parse_json.h"
#include "server/error.h"
#include "server/http/block_answer.h"
#include "server/http/rest_answer.h"
#include "server/http/shaped_answers.h"
#include "server/request_id.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Kind = AnswerBlock::Kind;

json ErrorJson(const absl::Status& status) {
  struct Name {
    int http_status;
    const char* type;
  };
  constexpr Name kNames[] = {
      {400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"},
      {404, "not_found_error"},       {413, "request_too_large"},    {429, "rate_limit_error"},
      {503, "overloaded_error"},      {504, "timeout_error"},
  };
  const ApiError error = ToApiError(status);
  json value = json::parse(ToJson(error));
  value["type"] = "error";
  value["error"]["type"] = "api_error";
  for (const Name& name : kNames) {
    if (name.http_status == error.http_status) value["error"]["type"] = name.type;
  }
  return value;
}

class MessagesAnswer final : public BlockAnswer {
 public:
  MessagesAnswer(const ShapedRequest& request, const Accepted& accepted,
                 std::shared_ptr<HttpReply> reply)
      : BlockAnswer(request.rest.stream, std::move(reply)),
        id_(NewId("msg_")),
        model_(accepted.model_name) {}

 protected:
  void Begin() override {
    json message = Message();
    message["content"] = json::array();
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = UsageJson(start_);
    Event("message_start", {{"type", "message_start"}, {"message", std::move(message)}});
  }
  void Open(size_t block) override {
    AnswerBlock empty = blocks_[block];
    empty.text = empty.kind == Kind::kCall ? "{}" : "";
    Event("content_block_start",
          {{"type", "content_block_start"}, {"index", block}, {"content_block", BlockJson(empty)}});
  }
  void Grow(size_t block, std::string_view text) override {
    switch (blocks_[block].kind) {
      case Kind::kText:
        return Delta(block, {{"type", "text_delta"}, {"text", text}});
      case Kind::kReasoning:
        return Delta(block, {{"type", "thinking_delta"}, {"thinking", text}});
      case Kind::kCall:
        return Delta(block, {{"type", "input_json_delta"}, {"partial_json", text}});
    }
  }
  void Shut(size_t block) override {
    // Nothing is signed: what a model thought is shown to it again as it was sent.
    if (blocks_[block].kind == Kind::kReasoning) {
      Delta(block, {{"type", "signature_delta"}, {"signature", ""}});
    }
    Event("content_block_stop", {{"type", "content_block_stop"}, {"index", block}});
  }
  void End(const Usage& usage) override {
    Event("message_delta",
          {{"type", "message_delta"}, {"delta", StopJson()}, {"usage", UsageJson(usage)}});
    Event("message_stop", {{"type", "message_stop"}});
  }
  void Fail(const absl::Status& status) override { Event("error", ErrorJson(status)); }
  json Whole(const Usage& usage) const override {
    json message = Message();
    message["content"] = json::array();
    for (const AnswerBlock& block : blocks_) message["content"].push_back(BlockJson(block));
    message.update(StopJson());
    message["usage"] = UsageJson(usage);
    return message;
  }
  HttpResponse Refusal(const absl::Status& status) const override { return MessagesError(status); }

 private:
  json Message() const {
    return {{"id", id_}, {"type", "message"}, {"role", "assistant"}, {"model", model_}};
  }
  static json UsageJson(const Usage& usage) {
    // In this shape input_tokens are those that had to be computed.
    return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
            {"output_tokens", usage.completion_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", usage.cached_tokens}};
  }
  static json BlockJson(const AnswerBlock& block) {
    switch (block.kind) {
      case Kind::kReasoning:
        return {{"type", "thinking"}, {"thinking", block.text}, {"signature", ""}};
      case Kind::kCall:
        return {{"type", "tool_use"},
                {"id", block.call_id},
                {"name", block.name},
                {"input", ParseJson(block.text)}};
      case Kind::kText:
        break;
    }
    return {{"type", "text"}, {"text", block.text}};
  }
  json StopJson() const {
    const bool calls = std::any_of(blocks_.begin(), blocks_.end(), [](const AnswerBlock& block) {
      return block.kind == Kind::kCall;
    });
    const char* reason = finish_ == FinishReason::kLength ? "max_tokens"
                         : !stop_.empty()                 ? "stop_sequence"
                         : calls                          ? "tool_use"
                                                          : "end_turn";
    return {{"stop_reason", reason}, {"stop_sequence", stop_.empty() ? json() : json(stop_)}};
  }
  void Delta(size_t block, json delta) {
    Event("content_block_delta",
          {{"type", "content_block_delta"}, {"index", block}, {"delta", std::move(delta)}});
  }

  const std::string id_;
  const std::string model_;
};

}  // namespace

HttpResponse MessagesError(const absl::Status& status) {
  HttpResponse response = ErrorResponse(status);
  response.body = Dump(ErrorJson(status)) + "\n";
  return response;
}

std::unique_ptr<CallListener> MakeMessagesAnswer(const ShapedRequest& request,
                                                 const Accepted& accepted,
                                                 std::shared_ptr<HttpReply> reply) {
  return std::make_unique<MessagesAnswer>(request, accepted, std::move(reply));
}

}  // namespace qianyi
