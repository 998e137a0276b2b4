#include "server/call_pump.h"

#include <pthread.h>

namespace qianyi {

CallPump::CallPump() : thread_([this] { Loop(); }) {}

CallPump::~CallPump() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  bell_.Ring();
  thread_.join();
}

uint64_t CallPump::Add(std::unique_ptr<PumpedCall> call) {
  const uint64_t id = next_id_++;
  ++active_;
  {
    std::lock_guard lock(mutex_);
    added_.emplace_back(id, std::move(call));
  }
  bell_.Ring();
  return id;
}

void CallPump::Cancel(uint64_t id) {
  {
    std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  bell_.Ring();
}

void CallPump::CancelAll() {
  {
    std::lock_guard lock(mutex_);
    cancel_all_ = true;
  }
  bell_.Ring();
}

void CallPump::Loop() {
  pthread_setname_np(pthread_self(), "pump");
  std::vector<uint64_t> cancelled;
  for (;;) {
    const uint32_t seen = bell_.rings();
    bool cancel_all = false;
    {
      std::lock_guard lock(mutex_);
      for (auto& [id, call] : added_) calls_.emplace(id, std::move(call));
      added_.clear();
      cancelled.swap(cancelled_);
      std::swap(cancel_all, cancel_all_);
      if (stop_ && calls_.empty()) return;
    }
    for (const uint64_t id : cancelled) {
      if (const auto call = calls_.find(id); call != calls_.end()) call->second->Cancel();
    }
    cancelled.clear();
    for (auto call = calls_.begin(); call != calls_.end();) {
      if (cancel_all) call->second->Cancel();
      if (call->second->Poll()) {
        call = calls_.erase(call);
        --active_;
      } else {
        ++call;
      }
    }
    bell_.Wait(seen);
  }
}

}  // namespace qianyi
