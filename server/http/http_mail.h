// What other threads have for sessions, carried to them by one handler for all that comes together.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "boost/asio/io_context.hpp"

namespace qianyi {

class HttpSession;

// Thread-safe. A step of the engine has something for every stream at once: a handler of its own
// for each would wake a thread each, on processors that compute.
class HttpMail {
 public:
  using Act = absl::AnyInvocable<void(HttpSession&)>;

  // `context` is used until Close.
  explicit HttpMail(boost::asio::io_context& context) : context_(context) {}

  // Has `act` called on the session's strand, in the order of the calls, unless the answer to its
  // request of that number is over by then.
  void Send(std::shared_ptr<HttpSession> session, uint64_t request_number, Act act);
  // Once nothing runs the context any more: drops what was not delivered, and what still comes.
  void Close();

 private:
  struct Letter {
    std::shared_ptr<HttpSession> session;
    uint64_t request_number;
    Act act;
  };

  void Schedule();
  void Deliver();

  boost::asio::io_context& context_;
  std::mutex mutex_;
  std::vector<Letter> letters_;  // guarded by mutex_
  bool scheduled_ = false;       // guarded by mutex_: one Deliver at a time keeps the order
  bool closed_ = false;          // guarded by mutex_
  std::vector<Letter> taken_;    // the handler's own, kept for its memory
};

}  // namespace qianyi
