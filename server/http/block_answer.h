// Answers made of blocks: what the model thinks, says and calls, one after the other. The shapes of
// OpenAI's responses and of Anthropic's messages are two ways to write them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/http/http_server.h"
#include "server/text_call.h"

namespace qianyi {

struct AnswerBlock {
  enum class Kind : uint8_t { kReasoning, kText, kCall };
  Kind kind = Kind::kText;
  std::string id;    // "msg_…", "rs_…", "fc_…"
  std::string text;  // of a call, its arguments
  std::string name;  // of a call
  std::string call_id;
};

// Collects the blocks of the only choice, and sends them whole or as named events.
class BlockAnswer : public CallListener {
 public:
  void OnStart(const Usage& usage) final { start_ = usage; }
  void OnText(int choice, int blank, std::string_view text) final;
  void OnReasoning(int choice, std::string_view text) final;
  void OnToolCall(int choice, int index, const ToolCall& call) final;
  void OnStop(int, std::string_view stop) final { stop_ = stop; }
  void OnBlankEnd(int, int, FinishReason why) final { finish_ = why; }
  void OnEnd(const absl::Status& status, const Usage& usage) final;

 protected:
  BlockAnswer(bool stream, std::shared_ptr<HttpReply> reply)
      : stream_(stream), reply_(std::move(reply)) {}

  // Of a stream, in this order; a block's text comes in one or more pieces.
  virtual void Begin() = 0;
  virtual void Open(size_t block) = 0;
  virtual void Grow(size_t block, std::string_view text) = 0;
  virtual void Shut(size_t block) = 0;
  virtual void End(const Usage& usage) = 0;
  // Instead of End.
  virtual void Fail(const absl::Status& status) = 0;
  // Not of a stream.
  virtual nlohmann::json Whole(const Usage& usage) const = 0;
  virtual HttpResponse Refusal(const absl::Status& status) const = 0;

  void Event(const char* name, const nlohmann::json& data);

  Usage start_;  // of the prompt, before Begin
  std::vector<AnswerBlock> blocks_;
  FinishReason finish_ = FinishReason::kStop;
  std::string stop_;  // the stop string that ended it, if one did

 private:
  void Append(AnswerBlock::Kind kind, std::string_view text);
  void BeginBlock(AnswerBlock block);
  void EndBlock();

  const bool stream_;
  const std::shared_ptr<HttpReply> reply_;
  bool begun_ = false;
  bool open_ = false;  // the last block is
};

}  // namespace qianyi
