// Accepts requests for text: all that is checked and decided before the engine has them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/admission.h"
#include "server/batch_call.h"
#include "server/call_pump.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/served_model.h"
#include "server/text_call.h"
#include "server/text_request.h"

namespace qianyi {

// A model, or one with an adapter: "poet", "poet:tang".
struct FoundModel {
  const ServedModel* model = nullptr;
  std::shared_ptr<const Adapter> adapter;  // or null

  std::string name() const;
};

// What an accepted request turned out to be.
struct Accepted {
  const ServedModel* model = nullptr;
  std::string model_name;  // with its adapter's
  uint64_t seed = 0;
  int blanks = 1;  // of each choice
  int64_t prompt_tokens = 0;
};

// What requests may hold while they wait and run.
struct QueueLimits {
  int64_t tokens = 0;  // of a model; 0 = those of as many full contexts
  int64_t bytes = 0;   // of all; 0 = as of MemoryOf
};

// Thread-safe.
class TextService {
 public:
  // `log` outlives this.
  TextService(std::vector<std::unique_ptr<ServedModel>> models, const QueueLimits& limits,
              Log& log);
  ~TextService();

  std::span<const std::unique_ptr<ServedModel>> models() const { return models_; }
  ServerMetrics& metrics() { return metrics_; }
  Log& log() { return log_; }
  // Work of any kind takes a ticket before it is begun; of the model's requests, one of models().
  absl::StatusOr<Ticket> Admit(const Caller& caller, const ServedModel& model, const Load& load,
                               bool batch);
  // By "MODEL" or "MODEL:ADAPTER". NotFound with code model_not_found and the names there are. ""
  // is the only model, or else the only one of text.
  absl::StatusOr<FoundModel> FindModel(std::string_view name) const;
  // One that reads and writes text; InvalidArgument for others.
  absl::StatusOr<FoundModel> FindTextModel(std::string_view name) const;

  // `make_listener` is called once the request is accepted, before it hears of anything. Errors
  // name the field at fault: InvalidArgument; ResourceExhausted (OverQuota, OverCapacity);
  // Unavailable while draining. The result is for Cancel.
  using MakeListener = std::function<std::unique_ptr<CallListener>(const Accepted&)>;
  absl::StatusOr<uint64_t> Start(const TextRequest& request, const MakeListener& make_listener);
  // Of the prompt that Start would make of it; refuses what that would.
  absl::StatusOr<int64_t> CountTokens(const TextRequest& request);
  // The same for work that writes no text: what `make_done` returns is called on the pump's thread,
  // if this is OK.
  using MakeDone = std::function<BatchCall::Done(const FoundModel& model, const Usage& usage)>;
  absl::StatusOr<uint64_t> StartBatch(const BatchRequest& request, const MakeDone& make_done);
  void Cancel(uint64_t call) { pump_.Cancel(call); }

  // No new requests; returns when the others have ended, which are cancelled after `seconds`.
  void Drain(double seconds);
  bool draining() const { return draining_; }
  int64_t active() const { return pump_.active(); }
  double uptime_seconds() const;

 private:
  const ServedModel* FindBase(std::string_view name) const;
  absl::StatusOr<uint64_t> AcceptBatch(const BatchRequest& request, const MakeDone& make_done);
  absl::StatusOr<uint64_t> Accept(const TextRequest& request, const MakeListener& make_listener);

  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> starting_{0};  // requests that are neither refused nor the pump's yet
  Log& log_;
  Admission admission_;  // outlives the calls
  CallPump pump_;        // outlives the engines, which ring its bell
  std::vector<std::unique_ptr<ServedModel>> models_;
  const ServedModel* only_ = nullptr;  // what a request means that names no model; or null
  ServerMetrics metrics_;
};

}  // namespace qianyi
