// One request of many small pieces of work, a few of which are with the engine at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "server/admission.h"
#include "server/batch_request.h"
#include "server/metrics.h"
#include "server/pumped_call.h"
#include "server/served_model.h"

namespace qianyi {

// Used by the pump's thread, once it has begun.
class BatchCall final : public PumpedCall {
 public:
  // Called once, unless Begin failed: the results in the order of the jobs, if the status is OK.
  using Done = std::function<void(const absl::Status& status, std::vector<BatchResult> results)>;

  // `model`, `metrics` and `bell` outlive this.
  BatchCall(const ServedModel& model, ModelMetrics& metrics, std::vector<BatchJob> jobs, Bell* bell,
            Done done);

  // What it was let in with, held until it ends; `tokens` are then spent of it. Before Begin.
  void Hold(Ticket ticket, int64_t tokens);
  // Of `jobs`, how many are with the engine at once: others want places too.
  static int64_t Together(size_t jobs, const ServedModel& model);
  // What these hold at most, besides their choices.
  Load load() const;
  // Gives the engine the first ones. ResourceExhausted when its queue is full.
  absl::Status Begin();
  bool Poll() override;
  void Cancel() override;

 private:
  struct Running {
    size_t job = 0;
    uint64_t engine_id = 0;
    std::shared_ptr<Sink> sink;
  };

  absl::Status StartMore();
  void Fail(const absl::Status& status);
  bool Take(Running& running);

  const ServedModel& model_;
  ModelMetrics& metrics_;
  Bell* const bell_;
  const Done done_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  const size_t window_;  // with the engine at once
  std::vector<BatchJob> jobs_;
  size_t next_ = 0;  // the first that has not begun
  std::vector<Running> running_;
  std::vector<BatchResult> results_;
  absl::Status status_;
  Ticket ticket_;
  int64_t tokens_ = 0;
};

}  // namespace qianyi
