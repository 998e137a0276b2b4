#include "server/text_call.h"

#include <utility>

namespace qianyi {

TextCall::TextCall(const ServedModel& model, ModelMetrics& metrics, int64_t prompt_tokens,
                   std::vector<std::string> stops, ChatReading reading,
                   std::unique_ptr<CallListener> listener)
    : model_(model),
      metrics_(metrics),
      stops_(std::move(stops)),
      reading_(std::move(reading)),
      listener_(std::move(listener)),
      usage_{.prompt_tokens = prompt_tokens} {}

void TextCall::AddChoice(uint64_t engine_id, std::shared_ptr<Sink> sink, bool reports) {
  Choice choice;
  choice.engine_id = engine_id;
  choice.sink = std::move(sink);
  choice.detokenizer = std::make_unique<Detokenizer>(*model_.tokenizer, stops_);
  if (reports) choice.reporter = std::make_unique<TokenReporter>(*model_.tokenizer);
  if (reading_.format != nullptr && !reading_.plain) {
    choice.parser = reading_.format->parser(reading_.options);
    std::vector<ChatDelta> none;  // the beginning of a call is held back
    choice.parser->Push(reading_.format->begin_call(reading_.options), &none);
  }
  choices_.push_back(std::move(choice));
  ++open_;
}

void TextCall::Cancel() {
  for (const Choice& choice : choices_) {
    if (!choice.closed) model_.engine->Cancel(choice.engine_id);
  }
}

bool TextCall::Poll() {
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    Choice& choice = choices_[i];
    while (!choice.closed) {
      bool closed = false;
      const TokenEvent* event = choice.sink->Poll(&closed);
      if (event != nullptr) {
        Take(i, *event);
      } else if (closed) {
        EndChoice(i);
      } else {
        break;
      }
    }
  }
  if (open_ > 0) return false;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
  metrics_.request_seconds.Observe(seconds.count());
  if (log_ != nullptr) WriteLine(seconds.count());
  ticket_.Spend(usage_.prompt_tokens + usage_.completion_tokens);
  ticket_ = Ticket();  // before the client hears of the end, and asks again
  listener_->OnEnd(status_, usage_);
  return true;
}

void TextCall::LogTo(Log& log, nlohmann::ordered_json line) {
  log_ = &log;
  line_ = std::move(line);
}

void TextCall::WriteLine(double seconds) {
  line_["prompt_tokens"] = usage_.prompt_tokens;
  line_["cached_tokens"] = usage_.cached_tokens;
  line_["completion_tokens"] = usage_.completion_tokens;
  if (usage_.completion_tokens > 0) line_["first_token_seconds"] = first_token_seconds_;
  line_["seconds"] = seconds;
  line_["status"] = absl::StatusCodeToString(status_.code());
  log_->Request("generation", line_);
}

void TextCall::EndChoice(int index) {
  Choice& choice = choices_[index];
  choice.closed = true;
  --open_;
  const absl::Status& status = choice.sink->status();
  metrics_.finished.Count(choice.stopped ? absl::OkStatus() : status, choice.finish);
  if (const double queued = choice.sink->queue_seconds(); queued >= 0) {
    metrics_.queue_seconds.Observe(queued);
  }
  if (status.ok() || choice.stopped || !status_.ok()) return;
  status_ = status;  // one failure ends them all
  Cancel();
}

void TextCall::Take(int index, const TokenEvent& event) {
  Choice& choice = choices_[index];
  if (choice.stopped) return;
  if (!started_) {
    started_ = true;
    usage_.cached_tokens = choice.sink->cached_tokens();
    listener_->OnStart(usage_);
  }
  if (event.finish == FinishReason::kNone) {
    TakeToken(index, event);
    return;
  }
  text_.clear();
  choice.detokenizer->Finish(&text_);
  const bool by_itself = !choice.detokenizer->stopped();
  Write(index, event.blank, /*last=*/true);
  if (choice.stopped) return;
  if (choice.reporter != nullptr && by_itself) Report(index, choice.reporter->TakeRest());
  if (choice.detokenizer->stopped()) listener_->OnStop(index, StopOf(choice));
  choice.finish = event.finish;
  listener_->OnBlankEnd(index, event.blank, event.finish);
  choice.detokenizer = std::make_unique<Detokenizer>(*model_.tokenizer, stops_);
}

void TextCall::TakeToken(int index, const TokenEvent& event) {
  Choice& choice = choices_[index];
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> since = now - last_token_;
  (usage_.completion_tokens == 0 ? metrics_.first_token_seconds : metrics_.inter_token_seconds)
      .Observe(since.count());
  if (usage_.completion_tokens == 0) first_token_seconds_ = since.count();
  last_token_ = now;
  ++usage_.completion_tokens;
  text_.clear();
  choice.detokenizer->Append(event.token.token, &text_);
  if (choice.reporter != nullptr) choice.reporter->Add(event.token);
  const bool stopped = choice.detokenizer->stopped();
  Write(index, event.blank, /*last=*/stopped);
  if (choice.reasons) ++usage_.reasoning_tokens;
  if (!stopped || choice.stopped) return;
  listener_->OnStop(index, StopOf(choice));
  Stop(index, event.blank);
}

const std::string& TextCall::StopOf(const Choice& choice) const {
  return stops_[static_cast<size_t>(choice.detokenizer->stop_index())];
}

// Hands text_ on.
void TextCall::Write(int index, int blank, bool last) {
  Choice& choice = choices_[index];
  if (choice.reporter != nullptr) Report(index, choice.reporter->Take(text_));
  if (choice.parser == nullptr) {
    if (!text_.empty()) listener_->OnText(index, blank, text_);
    return;
  }
  deltas_.clear();
  choice.parser->Push(text_, &deltas_);
  if (last) choice.parser->Finish(&deltas_);
  for (const ChatDelta& delta : deltas_) {
    choice.reasons = delta.kind == ChatDelta::Kind::kReasoning;
    switch (delta.kind) {
      case ChatDelta::Kind::kContent:
        listener_->OnText(index, blank, delta.text);
        break;
      case ChatDelta::Kind::kReasoning:
        listener_->OnReasoning(index, delta.text);
        break;
      case ChatDelta::Kind::kToolCall:
        listener_->OnToolCall(index, choice.tool_calls++, {"", delta.name, delta.text});
        if (reading_.options.parallel_calls) break;
        Stop(index, blank);
        return;
    }
  }
}

void TextCall::Report(int index, std::vector<TokenReport> tokens) {
  if (!tokens.empty()) listener_->OnTokens(index, std::move(tokens));
}

void TextCall::Stop(int index, int blank) {
  Choice& choice = choices_[index];
  choice.stopped = true;
  listener_->OnBlankEnd(index, blank, FinishReason::kStop);
  model_.engine->Cancel(choice.engine_id);
}

}  // namespace qianyi
