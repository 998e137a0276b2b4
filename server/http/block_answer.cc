#include "server/http/block_answer.h"

#include <utility>

#include "server/http/rest_json.h"
#include "server/request_id.h"

namespace qianyi {

void BlockAnswer::Event(const char* name, const nlohmann::json& data) {
  std::string event = "event: ";
  event.append(name).append("\ndata: ").append(Dump(data)).append("\n\n");
  reply_->Write(std::move(event));
}

void BlockAnswer::BeginBlock(AnswerBlock block) {
  EndBlock();
  blocks_.push_back(std::move(block));
  open_ = true;
  if (!stream_) return;
  if (!begun_) {
    begun_ = true;
    reply_->BeginStream({.status = 200,
                         .content_type = "text/event-stream",
                         .body = "",
                         .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
    Begin();
  }
  Open(blocks_.size() - 1);
}

void BlockAnswer::EndBlock() {
  if (open_ && stream_) Shut(blocks_.size() - 1);
  open_ = false;
}

void BlockAnswer::Append(AnswerBlock::Kind kind, std::string_view text) {
  if (!open_ || blocks_.back().kind != kind) {
    AnswerBlock block;
    block.kind = kind;
    block.id = NewId(kind == AnswerBlock::Kind::kText ? "msg_" : "rs_");
    BeginBlock(std::move(block));
  }
  blocks_.back().text.append(text);
  if (stream_) Grow(blocks_.size() - 1, text);
}

void BlockAnswer::OnText(int, int, std::string_view text) {
  Append(AnswerBlock::Kind::kText, text);
}

void BlockAnswer::OnReasoning(int, std::string_view text) {
  Append(AnswerBlock::Kind::kReasoning, text);
}

void BlockAnswer::OnToolCall(int, int, const ToolCall& call) {
  BeginBlock({AnswerBlock::Kind::kCall, NewId("fc_"), call.arguments, call.name, NewId("call_")});
  if (stream_) Grow(blocks_.size() - 1, call.arguments);
  EndBlock();
}

void BlockAnswer::OnEnd(const absl::Status& status, const Usage& usage) {
  if (!begun_ && !status.ok()) {
    reply_->Send(Refusal(status));
    return;
  }
  // An answer without a word is one of an empty text.
  if (blocks_.empty()) BeginBlock({AnswerBlock::Kind::kText, NewId("msg_"), "", "", ""});
  if (!stream_) {
    HttpResponse response;
    response.body = Dump(Whole(usage)) + "\n";
    reply_->Send(std::move(response));
    return;
  }
  if (status.ok()) {
    EndBlock();
    End(usage);
  } else {
    Fail(status);
  }
  reply_->EndStream();
}

}  // namespace qianyi
