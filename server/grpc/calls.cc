#include "server/grpc/calls.h"

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/verse/verse_text.h"
#include "server/grpc/cancellation.h"
#include "server/grpc/messages.h"
#include "server/request_id.h"
#include "server/unix_time.h"

namespace qianyi {
namespace {

void SetCall(const ToolCall& call, v1::ToolCall* message) {
  message->set_id(NewId("call_"));
  message->set_name(call.name);
  message->set_arguments(call.arguments);
}

// On whose account it runs.
void Charge(const Caller& caller, const v1::GenerateRequest& message, TextRequest* request) {
  request->caller = caller;
  request->batch = caller.batch;
  request->body_bytes = static_cast<int64_t>(message.ByteSizeLong());
}

// Forwards to a reactor, which outlives it: gRPC ends no call before Finish, and Finish comes
// from OnEnd.
template <typename Reactor>
class Forward final : public CallListener {
 public:
  explicit Forward(Reactor* to) : to_(to) {}
  void OnText(int choice, int blank, std::string_view text) override {
    to_->OnText(choice, blank, text);
  }
  void OnReasoning(int choice, std::string_view text) override { to_->OnReasoning(choice, text); }
  void OnToolCall(int choice, int, const ToolCall& call) override { to_->OnToolCall(choice, call); }
  void OnTokens(int choice, std::vector<TokenReport> tokens) override {
    to_->OnTokens(choice, tokens);
  }
  void OnBlankEnd(int choice, int blank, FinishReason why) override {
    to_->OnBlankEnd(choice, blank, why);
  }
  void OnEnd(const absl::Status& status, const Usage& usage) override { to_->OnEnd(status, usage); }

 private:
  Reactor* const to_;
};

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(TextService& text, v1::GenerateResponse* response)
      : text_(text), response_(response), cancellation_(text) {}

  void Start(const absl::StatusOr<Caller>& caller, const v1::GenerateRequest& message) {
    absl::StatusOr<TextRequest> request =
        caller.ok() ? ParseRequest(message) : absl::StatusOr<TextRequest>(caller.status());
    if (!request.ok()) {
      OnEnd(request.status(), {});
      return;
    }
    Charge(*caller, message, &*request);
    is_task_ = std::holds_alternative<TaskInput>(request->input);
    logprobs_ = request->parameters.sampling.report_logprob;
    const absl::StatusOr<uint64_t> call = text_.Start(*request, [&](const Accepted& accepted) {
      response_->set_id(NewId("gen-"));
      response_->set_model(accepted.model_name);
      response_->set_created(UnixSeconds());
      response_->set_seed(static_cast<int64_t>(accepted.seed));
      for (int64_t i = 0; i < request->parameters.n; ++i) {
        v1::Choice* choice = response_->add_choices();
        choice->set_index(static_cast<int32_t>(i));
        choice->set_finish_reason(v1::FINISH_REASON_STOP);
        for (int blank = 0; blank < accepted.blanks; ++blank) choice->add_blanks();
      }
      return std::make_unique<Forward<UnaryCall>>(this);
    });
    if (call.ok()) {
      cancellation_.SetCall(*call);
    } else {
      OnEnd(call.status(), {});
    }
  }

  void OnText(int choice, int blank, std::string_view text) {
    response_->mutable_choices(choice)->mutable_blanks(blank)->append(text);
  }
  void OnReasoning(int choice, std::string_view text) {
    response_->mutable_choices(choice)->mutable_reasoning()->append(text);
  }
  void OnToolCall(int choice, const ToolCall& call) {
    v1::Choice* message = response_->mutable_choices(choice);
    SetCall(call, message->add_tool_calls());
    message->set_finish_reason(v1::FINISH_REASON_TOOL_CALLS);
  }
  void OnTokens(int choice, const std::vector<TokenReport>& tokens) {
    if (!logprobs_) return;  // they were wanted for something else
    for (const TokenReport& token : tokens) {
      SetLogprob(token, response_->mutable_choices(choice)->add_logprobs());
    }
  }
  void OnBlankEnd(int choice, int, FinishReason why) {
    if (why == FinishReason::kLength) {
      response_->mutable_choices(choice)->set_finish_reason(v1::FINISH_REASON_LENGTH);
    }
  }
  void OnEnd(const absl::Status& status, const Usage& usage) {
    for (v1::Choice& choice : *response_->mutable_choices()) {
      choice.set_text(choice.blanks(0));
      if (!is_task_) continue;
      for (std::string& line : Clauses(choice.text())) choice.add_lines(std::move(line));
    }
    SetUsage(usage, response_->mutable_usage());
    const grpc::Status answer = ToGrpcStatus(status);
    text_.metrics().CountGrpc("Generate", answer.error_code());
    Finish(answer);
  }

  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  TextService& text_;
  v1::GenerateResponse* const response_;
  Cancellation cancellation_;
  bool is_task_ = false;
  bool logprobs_ = false;
};

class StreamCall final : public grpc::ServerWriteReactor<v1::GenerateChunk> {
 public:
  explicit StreamCall(TextService& text) : text_(text), id_(NewId("gen-")), cancellation_(text) {}

  void Start(const absl::StatusOr<Caller>& caller, const v1::GenerateRequest& message) {
    absl::StatusOr<TextRequest> request =
        caller.ok() ? ParseRequest(message) : absl::StatusOr<TextRequest>(caller.status());
    if (!request.ok()) {
      OnEnd(request.status(), {});
      return;
    }
    Charge(*caller, message, &*request);
    request->streamed = true;
    const absl::StatusOr<uint64_t> call = text_.Start(*request, [&](const Accepted& accepted) {
      model_ = accepted.model_name;
      tokens_.resize(static_cast<size_t>(request->parameters.n));
      last_blank_ = accepted.blanks - 1;
      finish_.assign(static_cast<size_t>(request->parameters.n), v1::FINISH_REASON_STOP);
      return std::make_unique<Forward<StreamCall>>(this);
    });
    if (call.ok()) {
      cancellation_.SetCall(*call);
    } else {
      OnEnd(call.status(), {});
    }
  }

  void OnText(int choice, int blank, std::string_view text) {
    Push(choice, blank,
         [&](v1::GenerateChunk* chunk) { chunk->set_text(text.data(), text.size()); });
  }
  void OnReasoning(int choice, std::string_view text) {
    Push(choice, 0,
         [&](v1::GenerateChunk* chunk) { chunk->set_reasoning(text.data(), text.size()); });
  }
  void OnToolCall(int choice, const ToolCall& call) {
    Push(choice, 0, [&](v1::GenerateChunk* chunk) { SetCall(call, chunk->mutable_tool_call()); });
    finish_[choice] = v1::FINISH_REASON_TOOL_CALLS;
  }
  void OnTokens(int choice, const std::vector<TokenReport>& tokens) {
    tokens_[choice].insert(tokens_[choice].end(), tokens.begin(), tokens.end());
  }
  void OnBlankEnd(int choice, int blank, FinishReason why) {
    if (why == FinishReason::kLength) finish_[choice] = v1::FINISH_REASON_LENGTH;
    if (blank != last_blank_) return;
    Push(choice, blank,
         [&](v1::GenerateChunk* chunk) { chunk->set_finish_reason(finish_[choice]); });
  }
  void OnEnd(const absl::Status& status, const Usage& usage) {
    const grpc::Status answer = ToGrpcStatus(status);
    text_.metrics().CountGrpc("GenerateStream", answer.error_code());
    std::unique_lock lock(mutex_);
    if (status.ok()) {
      SetUsage(usage, Begin(&queue_.emplace_back(), 0, 0)->mutable_usage());
    } else {
      queue_.clear();
    }
    end_ = answer;
    WriteNext(lock);
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    if (!ok) {
      queue_.clear();
      lock.unlock();
      cancellation_.Cancel();
      lock.lock();
    }
    WriteNext(lock);
  }
  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  v1::GenerateChunk* Begin(v1::GenerateChunk* chunk, int choice, int blank) const {
    chunk->set_id(id_);
    chunk->set_model(model_);
    chunk->set_index(choice);
    chunk->set_blank(blank);
    return chunk;
  }
  // What nothing waits before is written at once, in the memory of the message before it.
  template <typename Fill>
  void Push(int choice, int blank, const Fill& fill) {
    std::unique_lock lock(mutex_);
    const bool at_once = !writing_ && !finished_ && queue_.empty();
    if (at_once) message_.Clear();
    v1::GenerateChunk* chunk = Begin(at_once ? &message_ : &queue_.emplace_back(), choice, blank);
    for (const TokenReport& token : tokens_[choice]) SetLogprob(token, chunk->add_logprobs());
    tokens_[choice].clear();
    fill(chunk);
    if (!at_once) return;  // OnWriteDone goes on
    writing_ = true;
    lock.unlock();
    StartWrite(&message_);
  }
  // gRPC takes one message at a time, and may call back at once: unlocks before.
  void WriteNext(std::unique_lock<std::mutex>& lock) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      message_ = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      StartWrite(&message_);
    } else if (end_.has_value()) {
      finished_ = true;
      lock.unlock();
      Finish(*end_);
    }
  }

  TextService& text_;
  const std::string id_;
  std::string model_;
  int last_blank_ = 0;
  std::vector<v1::FinishReason> finish_;
  std::vector<std::vector<TokenReport>> tokens_;  // not yet sent, by choice
  Cancellation cancellation_;
  std::mutex mutex_;  // guards the rest
  std::deque<v1::GenerateChunk> queue_;
  v1::GenerateChunk message_;  // being written
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> end_;
};

}  // namespace

grpc::ServerUnaryReactor* StartGenerate(TextService& text, const absl::StatusOr<Caller>& caller,
                                        const v1::GenerateRequest& request,
                                        v1::GenerateResponse* response) {
  auto* call = new UnaryCall(text, response);  // OnDone deletes it
  call->Start(caller, request);
  return call;
}

grpc::ServerWriteReactor<v1::GenerateChunk>* StartGenerateStream(
    TextService& text, const absl::StatusOr<Caller>& caller, const v1::GenerateRequest& request) {
  auto* call = new StreamCall(text);  // OnDone deletes it
  call->Start(caller, request);
  return call;
}

}  // namespace qianyi
