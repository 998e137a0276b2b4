#include "server/http/http_session.h"

#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <utility>

#include "boost/asio/dispatch.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/status.hpp"
#include "server/error.h"

namespace qianyi {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr int kLingerSeconds = 5;
constexpr size_t kLingerBytes = 16 << 10;

bool IsFitRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '_' || c == '.' || c == ':';
  });
}

std::string NewRequestId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  char id[40];
  std::snprintf(id, sizeof id, "req-%016llx", static_cast<unsigned long long>(random()));
  return id;
}

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
  template <typename Act>
  void Post(Act act) {
    asio::post(session_->stream_.get_executor(),
               [session = session_, number = number_, act = std::move(act)]() mutable {
                 if (session->request_number_ == number && !session->ended_) act(*session);
               });
  }

  const std::shared_ptr<HttpSession> session_;
  const uint64_t number_;
  bool used_ = false;
};

HttpSession::HttpSession(asio::ip::tcp::socket socket, const HttpShared& shared,
                         std::function<void()> on_end)
    : stream_(std::move(socket)), shared_(shared), on_end_(std::move(on_end)) {}

HttpSession::~HttpSession() { on_end_(); }

void HttpSession::Start() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
    Error ignored;
    self->stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    self->Read();
  });
}

void HttpSession::Finish() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->finishing_ = true;
    if (!self->ended_ || self->writing_) return;  // NextRequest will see to it
    Error ignored;
    self->stream_.socket().close(ignored);
  });
}

void HttpSession::Close() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    Error ignored;
    self->stream_.socket().close(ignored);
  });
}

void HttpSession::Read() {
  parser_.emplace();
  parser_->header_limit(shared_.limits.header_bytes);
  parser_->body_limit(shared_.limits.body_bytes);
  const bool first = request_number_ == 0;
  stream_.expires_after(
      std::chrono::seconds(first ? shared_.limits.read_seconds : shared_.limits.idle_seconds));
  http::async_read_header(
      stream_, buffer_, *parser_, [self = shared_from_this()](Error error, size_t) {
        if (error) {
          self->OnRead(error);
          return;
        }
        self->stream_.expires_after(std::chrono::seconds(self->shared_.limits.read_seconds));
        http::async_read(self->stream_, self->buffer_, *self->parser_,
                         [self](Error failed, size_t) { self->OnRead(failed); });
      });
}

void HttpSession::OnRead(Error error) {
  ++request_number_;
  stream_.expires_never();
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
    Error ignored;
    stream_.socket().close(ignored);
  }
}

void HttpSession::Refuse(int status, const std::string& message) {
  shared_.on_refused(status);
  ended_ = begun_ = gone_ = head_only_ = keep_alive_ = false;
  request_id_ = NewRequestId();
  ApiError error = ToApiError(absl::InvalidArgumentError(message));
  HttpResponse response;
  response.status = status;
  response.body = ToJson(error);
  Begin(std::move(response), /*streams=*/false);
  End();
}

void HttpSession::Dispatch() {
  auto message = parser_->release();
  ended_ = begun_ = gone_ = false;
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  HttpRequest request;
  request.method = head_only_ ? "GET" : std::string(message.method_string());
  const std::string target(message.target());
  request.path = target.substr(0, target.find('?'));
  request.content_type = std::string(message[http::field::content_type]);
  const std::string given(message["x-request-id"]);
  request_id_ = IsFitRequestId(given) ? given : NewRequestId();
  request.request_id = request_id_;
  const bool encoded = !message[http::field::content_encoding].empty();
  request.body = std::move(message.body());
  if (encoded) {
    Refuse(415, "bodies with a Content-Encoding are not read; send it plain");
    return;
  }
  WatchForEnd();
  shared_.handler(std::move(request),
                  std::make_shared<Answer>(shared_from_this(), request_number_));
}

// While nothing is being read, a socket that becomes readable either holds the next request or
// has been closed: only the latter says that nobody waits for the answer.
void HttpSession::WatchForEnd() {
  stream_.socket().async_wait(asio::ip::tcp::socket::wait_read,
                              [self = shared_from_this(), number = request_number_](Error error) {
                                if (error || self->request_number_ != number || self->ended_)
                                  return;
                                char byte;
                                const ssize_t got = recv(self->stream_.socket().native_handle(),
                                                         &byte, 1, MSG_PEEK | MSG_DONTWAIT);
                                if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
                                  self->Gone();
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
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  Enqueue(size + std::move(bytes) + "\r\n");
}

void HttpSession::End() {
  ended_ = true;
  on_gone_ = nullptr;
  if (!writing_) NextRequest();
}

void HttpSession::Enqueue(std::string bytes) {
  if (gone_) return;
  queue_.push_back(std::move(bytes));
  if (!writing_) Write();
}

void HttpSession::Write() {
  writing_ = true;
  stream_.expires_after(std::chrono::seconds(shared_.limits.write_seconds));
  asio::async_write(stream_, asio::buffer(queue_.front()),
                    [self = shared_from_this()](Error error, size_t) {
                      self->writing_ = false;
                      self->stream_.expires_never();
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
  Error ignored;
  if (finishing_) {
    stream_.socket().close(ignored);
    return;
  }
  if (keep_alive_) {
    Read();
    return;
  }
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(std::chrono::seconds(kLingerSeconds));
  Linger();
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
                            Error ignored;
                            self->stream_.socket().close(ignored);
                          });
}

}  // namespace qianyi
