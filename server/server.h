// The whole server: models, both ports, and its end.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/access/origin.h"
#include "server/access/tls.h"
#include "server/log.h"
#include "server/served_model.h"
#include "server/text_service.h"

namespace qianyi {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int http_port = 8080;  // 0 = a free one
  int grpc_port = 50051;
  QueueLimits queue;
  Log* log = nullptr;  // outlives the server; null: what operators must know goes to standard error
  double drain_seconds = 30;   // for requests in progress, when told to end
  std::string adapter_folder;  // below which adapters may be loaded at run time; empty: none
  std::string key_file;        // empty: nobody is asked for a key
  bool no_keys = false;        // said outright: then any `host` will do without
  TlsFiles tls;
  OriginRules origins;
};

// Whether only this machine can reach an address.
bool IsLoopback(const std::string& host);

class Server {
 public:
  // Listens once it returns. Unavailable when a port is taken; InvalidArgument for a host that
  // others can reach, without keys.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      std::vector<std::unique_ptr<ServedModel>> models, const ServerOptions& options);
  virtual ~Server() = default;

  virtual int http_port() const = 0;
  virtual int grpc_port() const = 0;
  // Not ready any more, takes nothing new, ends what runs, and cuts off what is left.
  virtual void Drain() = 0;
};

}  // namespace qianyi
