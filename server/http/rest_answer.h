// Answers of the text endpoints: whole, or as Server-Sent Events while they are written.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/http/http_server.h"
#include "server/http/rest_json.h"
#include "server/text_call.h"
#include "server/text_service.h"

namespace qianyi {

// The event that says a piece of a choice's text, but for the piece: only that differs from token
// to token.
struct TextEvent {
  int blank = -1;
  std::string before, after;  // both empty: such text is not sent
};

// What has been written of one choice.
struct ChoiceText {
  std::vector<std::string> blanks;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
  std::vector<TokenReport> tokens;  // where logprobs were asked for
  size_t shown_tokens = 0;          // of them, in events of a stream
  TextEvent text_event;
  bool ended = false;
  FinishReason finish = FinishReason::kStop;
};

// Collects an answer and sends it; the subclasses say in which shape.
class RestAnswer : public CallListener {
 public:
  RestAnswer(const RestRequest& request, const Accepted& accepted, std::string id_prefix,
             std::shared_ptr<HttpReply> reply);

  void OnText(int choice, int blank, std::string_view text) final;
  void OnReasoning(int choice, std::string_view text) final;
  void OnToolCall(int choice, int index, const ToolCall& call) final;
  void OnTokens(int choice, std::vector<TokenReport> tokens) final;
  void OnBlankEnd(int choice, int blank, FinishReason why) final;
  void OnEnd(const absl::Status& status, const Usage& usage) final;

 protected:
  // Of a stream; null sends nothing.
  virtual nlohmann::json First(int) const { return nullptr; }
  virtual nlohmann::json Delta(int choice, int blank, std::string_view text) const = 0;
  virtual nlohmann::json ReasoningDelta(int, std::string_view) const { return nullptr; }
  // Sent one after the other: a call's name, then its arguments.
  virtual nlohmann::json CallBegin(int, int) const { return nullptr; }
  virtual nlohmann::json CallArguments(int, int) const { return nullptr; }
  virtual nlohmann::json Last(int choice) const = 0;
  // What was reported of the tokens that an event, or the whole, is made of.
  virtual nlohmann::json Logprobs(std::span<const TokenReport>) const { return nullptr; }
  // Between the last choice and "[DONE]".
  virtual nlohmann::json Closing(const Usage&) const { return nullptr; }
  virtual nlohmann::json Whole(const Usage& usage) const = 0;

  // Of the whole of a choice; null where nobody asked.
  nlohmann::json ReportOf(const ChoiceText& choice) const;
  // {"id", "object", "created", "model"}
  nlohmann::json Base(const char* object) const;

  const std::string id_;
  const std::string model_;
  const int64_t created_seconds_;
  const uint64_t seed_;
  const bool include_usage_;
  const bool logprobs_;
  std::vector<ChoiceText> choices_;

 private:
  void Event(const nlohmann::json& json);
  // What OnText sends.
  void SendText(int choice, int blank, std::string_view text);
  // With the logprobs of what the choice has since the last one.
  void ChoiceEvent(int choice, nlohmann::json json);
  void BeginStream();

  const bool stream_;
  const std::shared_ptr<HttpReply> reply_;
  bool begun_ = false;
};

std::unique_ptr<RestAnswer> MakeCompletionAnswer(const RestRequest& request,
                                                 const Accepted& accepted,
                                                 std::shared_ptr<HttpReply> reply);
std::unique_ptr<RestAnswer> MakeChatAnswer(const RestRequest& request, const Accepted& accepted,
                                           std::shared_ptr<HttpReply> reply);
std::unique_ptr<RestAnswer> MakeTaskAnswer(const RestRequest& request, const Accepted& accepted,
                                           std::shared_ptr<HttpReply> reply);

// The answer to a request that failed, with Retry-After where trying again can help.
HttpResponse ErrorResponse(const absl::Status& status);

}  // namespace qianyi
