// The one thread between engines and front ends: carries what the engines wrote to listeners.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/sink.h"
#include "server/pumped_call.h"

namespace qianyi {

// Thread-safe. Engines ring `bell()` as they write; the pump then polls every call.
class CallPump {
 public:
  CallPump();
  ~CallPump();  // all calls must have ended, or their engines be gone: waits for them

  Bell* bell() { return &bell_; }
  // Takes the call over; the id is for Cancel.
  uint64_t Add(std::unique_ptr<PumpedCall> call);
  // A no-op once the call has ended.
  void Cancel(uint64_t id);
  void CancelAll();
  int64_t active() const { return active_; }

 private:
  void Loop();

  Bell bell_;
  std::mutex mutex_;  // guards the next four
  std::vector<std::pair<uint64_t, std::unique_ptr<PumpedCall>>> added_;
  std::vector<uint64_t> cancelled_;
  bool cancel_all_ = false;
  bool stop_ = false;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<int64_t> active_{0};
  std::unordered_map<uint64_t, std::unique_ptr<PumpedCall>> calls_;  // the thread's own
  std::thread thread_;
};

}  // namespace qianyi
