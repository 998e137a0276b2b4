// A call that can be cancelled before its request has been accepted.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include "server/text_service.h"

namespace qianyi {

// Thread-safe.
class Cancellation {
 public:
  explicit Cancellation(TextService& text) : text_(text) {}
  void SetCall(uint64_t call) {
    std::lock_guard lock(mutex_);
    call_ = call;
    if (cancelled_) text_.Cancel(call);
  }
  void Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (call_.has_value()) text_.Cancel(*call_);
  }

 private:
  TextService& text_;
  std::mutex mutex_;
  std::optional<uint64_t> call_;
  bool cancelled_ = false;
};

}  // namespace qianyi
