#include "server/http/http_session.h"

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "boost/asio/dispatch.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/status.hpp"
#include "server/error.h"
#include "server/http/http_head.h"
#include "server/request_id.h"

namespace qianyi {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr int kLingerSeconds = 5;
constexpr size_t kLingerBytes = 16 << 10;
constexpr auto kLookAgain = std::chrono::milliseconds(200);

}  // namespace

// Each method goes to the session's strand; what comes for a request that is over is dropped.
class HttpSession::Answer final : public HttpReply {
 public:
  Answer(std::shared_ptr<HttpSession> session, uint64_t number)
      : session_(std::move(session)), number_(number) {}
  ~Answer() override {
    if (used_) return;
    HttpResponse response;
    response.status = 500;
    response.body =
        ToJson(ToApiError(absl::InternalError("the request was dropped; this is a defect")));
    Send(std::move(response));
  }
  void Send(HttpResponse response) override {
    used_ = true;
    Post([response = std::move(response)](HttpSession& session) mutable {
      session.Begin(std::move(response), /*streams=*/false);
      session.End();
    });
  }
  void BeginStream(HttpResponse head) override {
    used_ = true;
    Post([head = std::move(head)](HttpSession& session) mutable {
      session.Begin(std::move(head), /*streams=*/true);
    });
  }
  void Write(std::string bytes) override {
    Post([bytes = std::move(bytes)](HttpSession& session) mutable {
      session.Chunk(std::move(bytes));
    });
  }
  void EndStream() override {
    Post([](HttpSession& session) {
      if (session.chunked_) session.Enqueue("0\r\n\r\n");
      session.End();
    });
  }
  void OnGone(std::function<void()> callback) override {
    Post([callback = std::move(callback)](HttpSession& session) mutable {
      if (session.gone_) {
        callback();
      } else {
        session.on_gone_ = std::move(callback);
      }
    });
  }

 private:
  void Post(HttpMail::Act act) { session_->shared_.mail.Send(session_, number_, std::move(act)); }

  const std::shared_ptr<HttpSession> session_;
  const uint64_t number_;
  bool used_ = false;
};

HttpSession::HttpSession(asio::ip::tcp::socket socket, HttpShared& shared,
                         std::function<void()> on_end)
    : stream_(std::move(socket), shared.tls.has_value() ? &*shared.tls : nullptr),
      look_again_(stream_.get_executor()),
      shared_(shared),
      on_end_(std::move(on_end)) {}

HttpSession::~HttpSession() {
  ReleaseBody();
  on_end_();
}

void HttpSession::Start() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
    Error ignored;
    self->stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    self->stream_.tcp().expires_after(std::chrono::seconds(self->shared_.limits.read_seconds));
    self->stream_.Handshake([self](Error error) {
      if (error) {
        self->CloseSocket();
      } else {
        self->Read();
      }
    });
  });
}

void HttpSession::CloseSocket() {
  Error ignored;
  stream_.socket().close(ignored);
}

void HttpSession::Finish() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->finishing_ = true;
    if (!self->ended_ || self->writing_) return;  // NextRequest will see to it
    self->CloseSocket();
  });
}

void HttpSession::Close() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->CloseSocket(); });
}

void HttpSession::Take(std::shared_ptr<HttpSession> self, uint64_t request_number,
                       HttpMail::Act act) {
  asio::dispatch(stream_.get_executor(),
                 [self = std::move(self), request_number, act = std::move(act)]() mutable {
                   if (self->request_number_ == request_number && !self->ended_) act(*self);
                 });
}

void HttpSession::Read() {
  parser_.emplace();
  parser_->header_limit(shared_.limits.header_bytes);
  parser_->body_limit(shared_.limits.body_bytes);
  const bool first = request_number_ == 0;
  stream_.tcp().expires_after(
      std::chrono::seconds(first ? shared_.limits.read_seconds : shared_.limits.idle_seconds));
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = shared_from_this()](Error error, size_t) {
                            if (error) {
                              self->OnRead(error);
                            } else {
                              self->OnHeader();
                            }
                          });
}

// Who asks, and for what, is looked at before there is any memory for a body.
void HttpSession::OnHeader() {
  request_ = ReadHead(parser_->get());
  request_id_ = request_.request_id;
  head_only_ = parser_->get().method() == http::verb::head;
  if (std::optional<HttpResponse> answer = shared_.hooks.screen(&request_)) {
    ++request_number_;
    stream_.tcp().expires_never();
    AnswerUnread(*std::move(answer));
    return;
  }
  if (!HoldBody()) {
    ++request_number_;
    stream_.tcp().expires_never();
    shared_.hooks.on_refused(request_id_, 503);
    HttpResponse response;
    response.status = 503;
    response.body =
        ToJson(ToApiError(absl::UnavailableError("the requests that are being read take all the "
                                                 "memory there is for them; try again later")));
    response.headers.emplace_back("Retry-After", "1");
    AnswerUnread(std::move(response));
    return;
  }
  stream_.tcp().expires_after(std::chrono::seconds(shared_.limits.read_seconds));
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](Error failed, size_t) { self->OnRead(failed); });
}

bool HttpSession::HoldBody() {
  const auto length = parser_->content_length();
  const uint64_t bytes = length.has_value()   ? *length
                         : parser_->chunked() ? shared_.limits.body_bytes
                                              : 0;
  if (shared_.bodies_bytes.fetch_add(bytes) + bytes > shared_.limits.all_bodies_bytes) {
    shared_.bodies_bytes.fetch_sub(bytes);
    return false;
  }
  held_bytes_ = bytes;
  return true;
}

void HttpSession::ReleaseBody() { shared_.bodies_bytes.fetch_sub(std::exchange(held_bytes_, 0)); }

void HttpSession::OnRead(Error error) {
  ++request_number_;
  stream_.tcp().expires_never();
  if (!error) {
    Dispatch();
  } else if (error == http::error::body_limit) {
    Refuse(413, "the body is larger than " + std::to_string(shared_.limits.body_bytes) +
                    " bytes; send less");
  } else if (error == http::error::header_limit) {
    Refuse(431, "the headers are larger than " + std::to_string(shared_.limits.header_bytes) +
                    " bytes; send less");
  } else if (error.category() == make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    Refuse(400, "not a well-formed HTTP request: " + error.message());
  } else {  // the client has left, or was silent for too long
    CloseSocket();
  }
  ReleaseBody();
}

void HttpSession::Refuse(int status, const std::string& message) {
  head_only_ = false;
  request_id_ = RequestIdFrom("");
  shared_.hooks.on_refused(request_id_, status);
  HttpResponse response;
  response.status = status;
  response.body = ToJson(ToApiError(absl::InvalidArgumentError(message)));
  AnswerUnread(std::move(response));
}

// To a request that was not read to its end: nothing can follow on this connection, unless it had
// no body at all.
void HttpSession::AnswerUnread(HttpResponse response) {
  keep_alive_ = parser_->is_done() && parser_->get().keep_alive();
  ended_ = begun_ = gone_ = false;
  Begin(std::move(response), /*streams=*/false);
  End();
}

void HttpSession::Dispatch() {
  auto message = parser_->release();
  ended_ = begun_ = gone_ = false;
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  const bool encoded = !message[http::field::content_encoding].empty();
  request_.body = std::move(message.body());
  if (encoded) {
    Refuse(415, "bodies with a Content-Encoding are not read; send it plain");
    return;
  }
  shared_.hooks.handler(std::move(request_),
                        std::make_shared<Answer>(shared_from_this(), request_number_));
  // Behind what was answered at once: who has closed its side of the connection after a request
  // that is refused still reads why.
  shared_.mail.Send(shared_from_this(), request_number_,
                    [](HttpSession& session) { session.WatchForEnd(); });
}

// While nothing is being read, a socket that becomes readable either holds more from the client
// (the next request, or TLS that says goodbye) or has been closed: only the latter says that nobody
// waits for the answer.
void HttpSession::WatchForEnd() {
  stream_.socket().async_wait(asio::ip::tcp::socket::wait_read,
                              [self = shared_from_this(), number = request_number_](Error error) {
                                if (!error && self->request_number_ == number && !self->ended_)
                                  self->LookForEnd();
                              });
}

void HttpSession::LookForEnd() {
  pollfd watched{stream_.socket().native_handle(), POLLRDHUP, 0};
  if (poll(&watched, 1, 0) > 0) {
    Gone();
    return;
  }
  look_again_.expires_after(kLookAgain);
  look_again_.async_wait([self = shared_from_this(), number = request_number_](Error error) {
    if (!error && self->request_number_ == number && !self->ended_) self->LookForEnd();
  });
}

void HttpSession::Gone() {
  if (gone_) return;
  gone_ = true;
  keep_alive_ = false;
  if (auto callback = std::exchange(on_gone_, nullptr)) callback();
}

void HttpSession::Begin(HttpResponse response, bool streams) {
  if (begun_) return;
  begun_ = true;
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " " +
                     std::string(reason.data(), reason.size()) + "\r\n";
  const auto add = [&](std::string_view name, std::string_view value) {
    head.append(name).append(": ").append(value).append("\r\n");
  };
  add("Server", "qianyi");
  add("Content-Type", response.content_type);
  add("X-Content-Type-Options", "nosniff");
  add("X-Request-Id", request_id_);
  for (const auto& [name, value] : response.headers) add(name, value);
  if (!streams) {
    chunked_ = false;
    add("Content-Length", std::to_string(response.body.size()));
  } else if (chunked_) {
    add("Transfer-Encoding", "chunked");
  } else {
    keep_alive_ = false;  // HTTP/1.0: the end of the connection is the end of the stream
  }
  add("Connection", keep_alive_ ? "keep-alive" : "close");
  head.append("\r\n");
  if (!streams && !head_only_) head.append(response.body);
  Enqueue(std::move(head));
}

void HttpSession::Chunk(std::string bytes) {
  if (bytes.empty()) return;  // an empty chunk would end the stream
  if (!chunked_) {
    Enqueue(std::move(bytes));
    return;
  }
  char size[24];
  const int digits = std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  bytes.insert(0, size, static_cast<size_t>(digits)).append("\r\n");
  Enqueue(std::move(bytes));
}

void HttpSession::End() {
  ended_ = true;
  on_gone_ = nullptr;
  look_again_.cancel();
  if (!writing_) NextRequest();
}

void HttpSession::Enqueue(std::string bytes) {
  if (gone_) return;
  if (!writing_) bytes.erase(0, WriteAtOnce(bytes));
  if (bytes.empty()) return;
  queue_.push_back(std::move(bytes));
  if (!writing_) Write();
}

// As much as the kernel has room for: nearly always all of a token, without a timer and a handler
// of its own. Errors are left to Write.
size_t HttpSession::WriteAtOnce(const std::string& bytes) {
  if (stream_.encrypted()) return 0;
  const ssize_t sent = send(stream_.socket().native_handle(), bytes.data(), bytes.size(),
                            MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent > 0 ? static_cast<size_t>(sent) : 0;
}

void HttpSession::Write() {
  writing_ = true;
  stream_.tcp().expires_after(std::chrono::seconds(shared_.limits.write_seconds));
  asio::async_write(stream_, asio::buffer(queue_.front()),
                    [self = shared_from_this()](Error error, size_t) {
                      self->writing_ = false;
                      self->stream_.tcp().expires_never();
                      self->queue_.pop_front();
                      if (error) {
                        self->queue_.clear();
                        self->Gone();
                      }
                      if (!self->queue_.empty()) {
                        self->Write();
                      } else if (self->ended_) {
                        self->NextRequest();
                      }
                    });
}

void HttpSession::NextRequest() {
  if (keep_alive_ && !finishing_) {
    Read();
    return;
  }
  stream_.tcp().expires_after(std::chrono::seconds(kLingerSeconds));
  stream_.Finish([self = shared_from_this()](Error error) {
    if (error || self->finishing_) {
      self->CloseSocket();
    } else {
      self->Linger();
    }
  });
}

// Closing with unread input would reset the connection, and the client might never see the
// answer: what still comes is read and dropped, for a while.
void HttpSession::Linger() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(kLingerBytes),
                          [self = shared_from_this()](Error error, size_t) {
                            if (!error) {
                              self->Linger();
                              return;
                            }
                            self->CloseSocket();
                          });
}

}  // namespace qianyi
