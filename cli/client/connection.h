// How `qianyi client` reaches a server: its address, a key, certificates.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/status.h"
#include "qianyi/v1/inference.grpc.pb.h"

namespace qianyi {

struct ServerFlags {
  std::string address = "127.0.0.1:50051";
  std::string key_file;
  bool tls = false;
  bool plaintext = false;
  std::string ca_file, certificate_file, certificate_key_file;
  double timeout_seconds = 0;

  void Add(CLI::App& command);
};

// A server and what its calls carry. Thread-safe after Open; outlives its stubs.
class Connection {
 public:
  // Reads the files; connects with the first call. Errors name the flag.
  static absl::StatusOr<Connection> Open(const ServerFlags& flags);

  // A connection of its own for each `index`; 0 is the one most commands use.
  std::unique_ptr<v1::Inference::Stub> NewStub(int index = 0) const;
  // Adds the key and the deadline.
  void Prepare(grpc::ClientContext* context) const;
  // How a call ended, in words for the user.
  absl::Status Explain(const grpc::Status& status) const;

 private:
  // gRPC itself. Its threads end with it: a program that returns beside them leaves what they hold.
  class Library {
   public:
    Library();
    ~Library();
  };

  explicit Connection(const ServerFlags& flags)
      : library_(std::make_unique<Library>()), flags_(flags) {}

  std::unique_ptr<Library> library_;  // first, so that it goes last
  ServerFlags flags_;
  std::string key_;
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
};

}  // namespace qianyi
