// Work of a caller that the pump carries on: it looks after each whenever an engine has moved.
#pragma once

namespace qianyi {

// Used by the pump's thread, once it is made.
class PumpedCall {
 public:
  virtual ~PumpedCall() = default;
  // Hands on what has come. True when the call has ended and may be destroyed.
  virtual bool Poll() = 0;
  // Stops the work; the end comes through Poll.
  virtual void Cancel() = 0;
};

}  // namespace qianyi
