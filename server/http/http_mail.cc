#include "server/http/http_mail.h"

#include <utility>

#include "boost/asio/post.hpp"
#include "server/http/http_session.h"

namespace qianyi {

void HttpMail::Send(std::shared_ptr<HttpSession> session, uint64_t request_number, Act act) {
  bool schedule = false;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    letters_.push_back({std::move(session), request_number, std::move(act)});
    schedule = !std::exchange(scheduled_, true);
  }
  if (schedule) Schedule();
}

void HttpMail::Close() {
  std::vector<Letter> dropped;  // after the lock: a session may send while it ends
  std::lock_guard lock(mutex_);
  closed_ = true;
  dropped.swap(letters_);
}

void HttpMail::Schedule() {
  boost::asio::post(context_, [this] { Deliver(); });
}

void HttpMail::Deliver() {
  {
    std::lock_guard lock(mutex_);
    taken_.swap(letters_);
  }
  for (Letter& letter : taken_) {
    HttpSession& session = *letter.session;
    session.Take(std::move(letter.session), letter.request_number, std::move(letter.act));
  }
  taken_.clear();
  {
    std::lock_guard lock(mutex_);
    scheduled_ = !letters_.empty();
    if (!scheduled_) return;
  }
  Schedule();  // behind what other connections have waiting
}

}  // namespace qianyi
