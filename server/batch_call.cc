#include "server/batch_call.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/given_text.h"
#include "server/request_account.h"

namespace qianyi {
namespace {

std::vector<float> OfLengthOne(std::span<const float> vector) {
  double square = 0;
  for (const float value : vector)
    square += static_cast<double>(value) * static_cast<double>(value);
  const double length = std::sqrt(square);
  std::vector<float> scaled(vector.begin(), vector.end());
  if (length == 0) return scaled;
  for (float& value : scaled) value = static_cast<float>(static_cast<double>(value) / length);
  return scaled;
}

}  // namespace

BatchCall::BatchCall(const ServedModel& model, ModelMetrics& metrics, std::vector<BatchJob> jobs,
                     Bell* bell, Done done)
    : model_(model),
      metrics_(metrics),
      bell_(bell),
      done_(std::move(done)),
      window_(static_cast<size_t>(Together(jobs.size(), model))),
      jobs_(std::move(jobs)),
      results_(jobs_.size()) {}

int64_t BatchCall::Together(size_t jobs, const ServedModel& model) {
  const int64_t most = std::max<int64_t>(1, model.use().batch / 2);
  return std::clamp<int64_t>(static_cast<int64_t>(jobs), 1, most);
}

Load BatchCall::load() const {
  const int64_t together = static_cast<int64_t>(window_);
  Load most;  // of a job
  for (const BatchJob& job : jobs_) {
    const Load load = LoadOf(job.request, 1);
    most.tokens = std::max(most.tokens, load.tokens);
    most.bytes = std::max(most.bytes, load.bytes);
  }
  return {.tokens = together * most.tokens, .bytes = together * most.bytes};
}

void BatchCall::Hold(Ticket ticket, int64_t tokens) {
  for (BatchJob& job : jobs_) job.request.turn = ticket.turn();
  ticket_ = std::move(ticket);
  tokens_ = tokens;
}

absl::Status BatchCall::Begin() {
  absl::Status status = StartMore();
  if (!status.ok()) Cancel();
  return status;
}

absl::Status BatchCall::StartMore() {
  while (next_ < jobs_.size() && running_.size() < window_ && status_.ok()) {
    BatchJob& job = jobs_[next_];
    std::shared_ptr<Sink> sink;
    std::unique_ptr<Constraint> constraint;
    if (job.given.empty()) {
      sink = std::make_shared<Sink>(Sink::Mean{model_.engine->model().spec().hidden_size}, bell_);
    } else {
      sink = std::make_shared<Sink>(Engine::MaxEvents(job.request), 0, bell_);
      constraint = std::make_unique<GivenText>(job.given);
    }
    const auto id = model_.engine->Submit(job.request, sink, std::move(constraint));
    // What runs makes room when it ends; with nothing running nobody would call again.
    if (absl::IsResourceExhausted(id.status()) && !running_.empty()) return absl::OkStatus();
    if (!id.ok()) return id.status();
    running_.push_back({next_++, *id, std::move(sink)});
    job.request = {};
  }
  return absl::OkStatus();
}

bool BatchCall::Poll() {
  std::erase_if(running_, [this](Running& running) { return Take(running); });
  if (status_.ok()) {
    if (absl::Status status = StartMore(); !status.ok()) Fail(status);
  }
  if (!running_.empty()) return false;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
  metrics_.request_seconds.Observe(seconds.count());
  if (status_.ok()) ticket_.Spend(tokens_);
  ticket_ = Ticket();  // before the client hears of the end, and asks again
  done_(status_, std::move(results_));
  return true;
}

// True when it has ended.
bool BatchCall::Take(Running& running) {
  BatchResult& result = results_[running.job];
  for (;;) {
    bool closed = false;
    const TokenEvent* event = running.sink->Poll(&closed);
    if (event == nullptr && !closed) return false;
    if (event == nullptr) break;
    if (event->finish != FinishReason::kNone) continue;
    result.tokens.push_back(event->token.token);
    result.logprobs.push_back(event->token.logprob);
  }
  if (!running.sink->status().ok()) {
    Fail(running.sink->status());
  } else if (running.sink->dimensions() > 0) {
    result.vector = OfLengthOne(running.sink->mean());
  }
  return true;
}

void BatchCall::Fail(const absl::Status& status) {
  if (!status_.ok()) return;
  status_ = status;  // one failure ends them all
  Cancel();
}

void BatchCall::Cancel() {
  if (status_.ok()) status_ = absl::CancelledError("the request was cancelled");
  for (const Running& running : running_) model_.engine->Cancel(running.engine_id);
}

}  // namespace qianyi
