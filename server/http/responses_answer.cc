// Answers of /v1/responses.
#include <utility>

#include "server/error.h"
#include "server/http/block_answer.h"
#include "server/http/rest_answer.h"
#include "server/http/shaped_answers.h"
#include "server/request_id.h"
#include "server/unix_time.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Kind = AnswerBlock::Kind;

class ResponsesAnswer final : public BlockAnswer {
 public:
  ResponsesAnswer(const ShapedRequest& request, const Accepted& accepted,
                  std::shared_ptr<HttpReply> reply)
      : BlockAnswer(request.rest.stream, std::move(reply)), response_(request.echo) {
    response_["id"] = NewId("resp_");
    response_["object"] = "response";
    response_["created_at"] = UnixSeconds();
    response_["model"] = accepted.model_name;
    for (const char* name : {"error", "incomplete_details", "previous_response_id", "usage"}) {
      response_[name] = nullptr;
    }
    response_["background"] = response_["store"] = false;
    response_["text"] = {{"format", {{"type", "text"}}}};
    response_["truncation"] = "disabled";
    if (response_["metadata"].is_null()) response_["metadata"] = json::object();
    if (response_["tools"].is_null()) response_["tools"] = json::array();
    if (response_["tool_choice"].is_null()) response_["tool_choice"] = "auto";
  }

 protected:
  void Begin() override {
    Send("response.created", {{"response", Response("in_progress")}});
    Send("response.in_progress", {{"response", Response("in_progress")}});
  }
  void Open(size_t block) override {
    const AnswerBlock& full = blocks_[block];
    AnswerBlock empty = full;
    empty.text.clear();
    json item = ItemJson(empty, "in_progress");
    if (full.kind != Kind::kCall) item["content"] = json::array();
    Send("response.output_item.added", {{"output_index", block}, {"item", std::move(item)}});
    if (full.kind == Kind::kCall) return;
    SendPart("response.content_part.added", block, {{"part", PartJson(empty)}});
  }
  void Grow(size_t block, std::string_view text) override {
    switch (blocks_[block].kind) {
      case Kind::kText:
        return SendPart("response.output_text.delta", block,
                        {{"delta", text}, {"logprobs", json::array()}});
      case Kind::kReasoning:
        return SendPart("response.reasoning_text.delta", block, {{"delta", text}});
      case Kind::kCall:
        return Send("response.function_call_arguments.delta",
                    {{"item_id", blocks_[block].id}, {"output_index", block}, {"delta", text}});
    }
  }
  void Shut(size_t index) override {
    const AnswerBlock& block = blocks_[index];
    if (block.kind == Kind::kCall) {
      Send("response.function_call_arguments.done", {{"item_id", block.id},
                                                     {"output_index", index},
                                                     {"name", block.name},
                                                     {"arguments", block.text}});
    } else {
      const bool says = block.kind == Kind::kText;
      json done = {{"text", block.text}};
      if (says) done["logprobs"] = json::array();
      SendPart(says ? "response.output_text.done" : "response.reasoning_text.done", index,
               std::move(done));
      SendPart("response.content_part.done", index, {{"part", PartJson(block)}});
    }
    Send("response.output_item.done",
         {{"output_index", index}, {"item", ItemJson(block, "completed")}});
  }
  void End(const Usage& usage) override {
    const bool cut = finish_ == FinishReason::kLength;
    Send(cut ? "response.incomplete" : "response.completed", {{"response", Whole(usage)}});
  }
  void Fail(const absl::Status& status) override {
    json response = Response("failed");
    response["error"] = {{"code", "server_error"}, {"message", ToApiError(status).message}};
    Send("response.failed", {{"response", std::move(response)}});
  }
  json Whole(const Usage& usage) const override {
    const bool cut = finish_ == FinishReason::kLength;
    json response = Response(cut ? "incomplete" : "completed");
    if (cut) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    response["usage"] = {{"input_tokens", usage.prompt_tokens},
                         {"input_tokens_details",
                          {{"cached_tokens", usage.cached_tokens}, {"cache_write_tokens", 0}}},
                         {"output_tokens", usage.completion_tokens},
                         {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}},
                         {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
    return response;
  }
  HttpResponse Refusal(const absl::Status& status) const override { return ErrorResponse(status); }

 private:
  // With all blocks but those of an answer that has only begun.
  json Response(const char* status) const {
    json response = response_;
    response["status"] = status;
    response["output"] = json::array();
    if (std::string_view(status) == "in_progress") return response;
    const bool cut = finish_ == FinishReason::kLength;
    for (const AnswerBlock& block : blocks_) {
      const bool last = &block == &blocks_.back();
      response["output"].push_back(ItemJson(block, last && cut ? "incomplete" : "completed"));
    }
    return response;
  }
  static json PartJson(const AnswerBlock& block) {
    if (block.kind == Kind::kReasoning) return {{"type", "reasoning_text"}, {"text", block.text}};
    return {{"type", "output_text"},
            {"text", block.text},
            {"annotations", json::array()},
            {"logprobs", json::array()}};
  }
  static json ItemJson(const AnswerBlock& block, const char* status) {
    json item = {{"id", block.id}, {"status", status}};
    switch (block.kind) {
      case Kind::kReasoning:
        item["type"] = "reasoning";
        item["summary"] = json::array();
        item["content"] = json::array({PartJson(block)});
        break;
      case Kind::kText:
        item["type"] = "message";
        item["role"] = "assistant";
        item["content"] = json::array({PartJson(block)});
        break;
      case Kind::kCall:
        item["type"] = "function_call";
        item["call_id"] = block.call_id;
        item["name"] = block.name;
        item["arguments"] = block.text;
        break;
    }
    return item;
  }
  void Send(const char* type, json event) {
    event["type"] = type;
    event["sequence_number"] = sequence_++;
    Event(type, event);
  }
  void SendPart(const char* type, size_t block, json event) {
    event["item_id"] = blocks_[block].id;
    event["output_index"] = block;
    event["content_index"] = 0;
    Send(type, std::move(event));
  }

  json response_;  // what does not change
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<CallListener> MakeResponsesAnswer(const ShapedRequest& request,
                                                  const Accepted& accepted,
                                                  std::shared_ptr<HttpReply> reply) {
  return std::make_unique<ResponsesAnswer>(request, accepted, std::move(reply));
}

}  // namespace qianyi
