// One connection of the HTTP server.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "server/http/http_mail.h"
#include "server/http/http_server.h"
#include "server/http/http_stream.h"

namespace qianyi {

// What all sessions share; outlives them.
struct HttpShared {
  const HttpLimits limits;
  const HttpHooks hooks;
  HttpMail mail;
  std::optional<boost::asio::ssl::context> tls = std::nullopt;
  std::atomic<uint64_t> bodies_bytes{0};  // promised to requests that are being read
};

// Lives in its own handlers on its strand. Only Answer's methods are called from elsewhere.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, HttpShared& shared,
              std::function<void()> on_end);
  ~HttpSession();

  void Start();
  // From any thread.
  void Finish();  // after the answer in progress, if there is one
  void Close();
  // HttpMail's: `self` is this.
  void Take(std::shared_ptr<HttpSession> self, uint64_t request_number, HttpMail::Act act);

 private:
  class Answer;
  using Error = boost::beast::error_code;

  void Read();
  void OnHeader();
  bool HoldBody();
  void ReleaseBody();
  void OnRead(Error error);
  void Dispatch();
  void Refuse(int status, const std::string& message);
  void AnswerUnread(HttpResponse response);
  void CloseSocket();
  void WatchForEnd();
  void LookForEnd();
  void Begin(HttpResponse response, bool streams);
  void Chunk(std::string bytes);
  void End();
  void Enqueue(std::string bytes);
  size_t WriteAtOnce(const std::string& bytes);
  void Write();
  void NextRequest();
  void Linger();
  void Gone();

  HttpStream stream_;
  boost::asio::steady_timer look_again_;  // for the end of a client that has sent more
  HttpShared& shared_;
  const std::function<void()> on_end_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;

  // Of the request being answered.
  uint64_t request_number_ = 0;
  std::string request_id_;
  HttpRequest request_;
  uint64_t held_bytes_ = 0;  // of shared_.bodies_bytes
  bool head_only_ = false;
  bool keep_alive_ = false;
  bool finishing_ = false;  // the server is about to end
  bool chunked_ = false;
  bool begun_ = false;
  bool ended_ = true;  // no answer is outstanding
  bool gone_ = false;
  std::function<void()> on_gone_;

  std::deque<std::string> queue_;  // to be written
  bool writing_ = false;
};

}  // namespace qianyi
