// One accepted request on its way back: tokens from the engine become text for a front end.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "runtime/chat/chat_format.h"
#include "runtime/detokenizer.h"
#include "runtime/engine.h"
#include "runtime/sink.h"
#include "server/admission.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/pumped_call.h"
#include "server/served_model.h"
#include "server/text_request.h"
#include "server/token_report.h"

namespace qianyi {

// Hears of one call, on the pump's thread. Must not block.
class CallListener {
 public:
  virtual ~CallListener() = default;

  // The first call, when the first token comes: what the prompt took.
  virtual void OnStart(const Usage&) {}
  // Whole characters of a blank of a choice, never empty.
  virtual void OnText(int choice, int blank, std::string_view text) = 0;
  // What the model thought before it answered, and a call that is complete: `index` counts them,
  // `arguments` is a JSON object. Of chats only.
  virtual void OnReasoning(int choice, std::string_view text) = 0;
  virtual void OnToolCall(int choice, int index, const ToolCall& call) = 0;
  // The stop string that a choice ended with, before its OnBlankEnd.
  virtual void OnStop(int, std::string_view) {}
  // Where logprobs were asked for: the tokens that what comes next is made of.
  virtual void OnTokens(int, std::vector<TokenReport>) {}
  virtual void OnBlankEnd(int choice, int blank, FinishReason why) = 0;
  // The last call. Not OK: what came before is not to be used.
  virtual void OnEnd(const absl::Status& status, const Usage& usage) = 0;
};

// How the text of a call is taken apart, where a chat format says so.
struct ChatReading {
  const ChatFormat* format = nullptr;  // null: text is text
  ChatOptions options;
  bool plain = false;  // an answer of a form, which is no call and no thought whatever it says
};

// Used by the pump's thread, once it is made.
class TextCall final : public PumpedCall {
 public:
  // `model` and `metrics` outlive this.
  TextCall(const ServedModel& model, ModelMetrics& metrics, int64_t prompt_tokens,
           std::vector<std::string> stops, ChatReading reading,
           std::unique_ptr<CallListener> listener);

  // What it was let in with, held until the call is destroyed.
  void Hold(Ticket ticket) { ticket_ = std::move(ticket); }
  // At its end writes `line` with what became of it. `log` outlives this.
  void LogTo(Log& log, nlohmann::ordered_json line);
  // A choice that was submitted; `sink` rings the pump's bell. `reports`: its tokens are told of.
  void AddChoice(uint64_t engine_id, std::shared_ptr<Sink> sink, bool reports);
  bool Poll() override;
  void Cancel() override;

 private:
  struct Choice {
    uint64_t engine_id;
    std::shared_ptr<Sink> sink;
    std::unique_ptr<Detokenizer> detokenizer;
    std::unique_ptr<ChatParser> parser;       // or null
    std::unique_ptr<TokenReporter> reporter;  // or null
    int tool_calls = 0;
    bool reasons = false;                       // what came last was reasoning
    FinishReason finish = FinishReason::kStop;  // of its last blank
    bool stopped = false;                       // by a stop string: what still comes is dropped
    bool closed = false;
  };

  void WriteLine(double seconds);
  void Take(int index, const TokenEvent& event);
  void TakeToken(int index, const TokenEvent& event);
  void EndChoice(int index);
  void Write(int index, int blank, bool last);
  void Report(int index, std::vector<TokenReport> tokens);
  void Stop(int index, int blank);
  const std::string& StopOf(const Choice& choice) const;

  const ServedModel& model_;
  ModelMetrics& metrics_;
  const std::vector<std::string> stops_;
  const ChatReading reading_;
  const std::unique_ptr<CallListener> listener_;
  Ticket ticket_;
  Log* log_ = nullptr;
  nlohmann::ordered_json line_;
  double first_token_seconds_ = 0;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_token_ = begin_;
  std::vector<Choice> choices_;
  int open_ = 0;
  bool started_ = false;
  Usage usage_;
  absl::Status status_;
  std::string text_;  // scratch
  std::vector<ChatDelta> deltas_;
};

}  // namespace qianyi
