// HTTP/1.1 over Boost.Beast: limits, time-outs, streams, and word of clients that leave.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/access/key_ring.h"
#include "server/access/tls.h"

namespace qianyi {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string body;
  std::string content_type;
  std::string request_id;  // the client's if it is fit to be echoed, else a new one
  std::string host, origin, accept;
  std::string key;     // as it was presented; empty once it has been looked at
  Caller caller = {};  // whose key it is
  std::string priority;
  std::string trace_parent;
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
// Looks at a request whose body has not been read yet, and may answer it then.
using HttpScreen = std::function<std::optional<HttpResponse>(HttpRequest*)>;

struct HttpLimits {
  uint64_t body_bytes = 2 << 20;
  uint64_t all_bodies_bytes = 64 << 20;  // of requests that are being read
  uint32_t header_bytes = 16 << 10;
  int connections = 1024;
  int read_seconds = 30;   // of one request, and of a TLS handshake
  int idle_seconds = 75;   // between requests
  int write_seconds = 60;  // without progress
  int threads = 2;
};

// What a server does with requests. Errors of the protocol (too large, malformed) are answered
// without them and counted by `on_refused`.
struct HttpHooks {
  HttpScreen screen;
  HttpHandler handler;
  std::function<void(const std::string& request_id, int status)> on_refused;
  std::function<void(int change)> on_connection;  // one more, or one fewer
};

class HttpServer {
 public:
  // Port 0 takes a free one. Unavailable when the address is taken or not ours. `tls` may be off.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& host, int port,
                                                           const HttpLimits& limits, const Tls& tls,
                                                           HttpHooks hooks);
  virtual ~HttpServer() = default;  // closes every connection

  virtual int port() const = 0;
  // No new connections; returns when what was answered has been written, or after `seconds`.
  virtual void Finish(double seconds) = 0;
};

}  // namespace qianyi
