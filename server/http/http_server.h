// HTTP/1.1 over Boost.Beast: limits, time-outs, streams, and word of clients that leave.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string body;
  std::string content_type;
  std::string request_id;  // the client's if it is fit to be echoed, else a new one
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// The way back of one request, usable from any thread: either Send, or BeginStream, any number
// of Write, EndStream. One that is dropped unused answers 500.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void Send(HttpResponse response) = 0;
  virtual void BeginStream(HttpResponse head) = 0;  // its body is not sent
  virtual void Write(std::string bytes) = 0;
  virtual void EndStream() = 0;
  // Called once, from another thread, if the client leaves before the end.
  virtual void OnGone(std::function<void()> callback) = 0;
};

// Must not block; throws nothing.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;

struct HttpLimits {
  uint64_t body_bytes = 2 << 20;
  uint32_t header_bytes = 16 << 10;
  int connections = 1024;
  int read_seconds = 30;   // of one request
  int idle_seconds = 75;   // between requests
  int write_seconds = 60;  // without progress
  int threads = 2;
};

class HttpServer {
 public:
  // Port 0 takes a free one. Unavailable when the address is taken or not ours. Errors of the
  // protocol (too large, malformed) are answered here and counted by `on_refused(status)`.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& host, int port,
                                                           const HttpLimits& limits,
                                                           HttpHandler handler,
                                                           std::function<void(int)> on_refused);
  virtual ~HttpServer() = default;  // closes every connection

  virtual int port() const = 0;
  // No new connections; returns when what was answered has been written, or after `seconds`.
  virtual void Finish(double seconds) = 0;
};

}  // namespace qianyi
