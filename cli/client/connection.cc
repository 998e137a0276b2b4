#include "cli/client/connection.h"

#include <chrono>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "grpc/grpc.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"
#include "runtime/storage/file_util.h"
#include "server/server.h"

namespace qianyi {
namespace {

constexpr char kKeyVariable[] = "QIANYI_KEY";
constexpr uint64_t kSmallFileBytes = 1 << 20;
constexpr int kAnswerBytes = 256 << 20;  // many large pictures

absl::StatusOr<std::string> ReadKey(const ServerFlags& flags) {
  std::string key;
  if (!flags.key_file.empty()) {
    absl::StatusOr<std::string> text = ReadTextFile(flags.key_file, kSmallFileBytes);
    if (!text.ok()) return text.status();
    key = *std::move(text);
  } else if (const char* set = std::getenv(kKeyVariable); set != nullptr) {
    key = set;
  }
  absl::StripAsciiWhitespace(&key);
  for (const char byte : key) {
    if (absl::ascii_isprint(static_cast<unsigned char>(byte))) continue;
    return absl::InvalidArgumentError("the key has characters that no key has; give its one line");
  }
  return key;
}

std::string HostOf(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  return host;
}

// By what the name itself says: 127.example.org may be anywhere.
bool IsThisMachine(const std::string& host) { return host == "localhost" || IsLoopback(host); }

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const ServerFlags& flags) {
  if (!flags.tls && flags.ca_file.empty()) {
    if (flags.certificate_file.empty()) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError("--tls-cert needs --tls or --tls-ca; leave it out");
  }
  if (flags.certificate_file.empty() != flags.certificate_key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  grpc::SslCredentialsOptions options;
  for (const auto& [path, text] :
       {std::pair(&flags.ca_file, &options.pem_root_certs),
        std::pair(&flags.certificate_file, &options.pem_cert_chain),
        std::pair(&flags.certificate_key_file, &options.pem_private_key)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> read = ReadTextFile(*path, kSmallFileBytes);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  return grpc::SslCredentials(options);
}

}  // namespace

Connection::Library::Library() { grpc_init(); }
Connection::Library::~Library() { grpc_shutdown_blocking(); }

void ServerFlags::Add(CLI::App& command) {
  command.add_option("--server", address, "where it listens for gRPC")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command.add_option("--key-file", key_file, "a file that holds the key [QIANYI_KEY, or none]")
      ->type_name("FILE");
  command.add_flag("--tls", tls, "encrypt, and trust the authorities that the system trusts");
  command.add_option("--tls-ca", ca_file, "encrypt, and trust this authority, PEM")
      ->type_name("FILE");
  command.add_option("--tls-cert", certificate_file, "certificate to show, PEM")->type_name("FILE");
  command.add_option("--tls-key", certificate_key_file, "its private key, PEM")->type_name("FILE");
  command.add_flag("--plaintext", plaintext, "send the key unencrypted to another machine");
  command.add_option("--timeout", timeout_seconds, "of each call, in seconds; 0 = none")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
}

absl::StatusOr<Connection> Connection::Open(const ServerFlags& flags) {
  const size_t colon = flags.address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == flags.address.size() ||
      absl::StrContains(flags.address, "/")) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--server %s: it is HOST:PORT, the port of gRPC: 127.0.0.1:50051", flags.address));
  }
  Connection connection(flags);
  absl::StatusOr<std::string> key = ReadKey(flags);
  if (!key.ok()) return key.status();
  connection.key_ = *std::move(key);
  auto credentials = Credentials(flags);
  if (!credentials.ok()) return credentials.status();
  connection.credentials_ = *std::move(credentials);
  const bool encrypted = flags.tls || !flags.ca_file.empty();
  if (!connection.key_.empty() && !encrypted && !flags.plaintext &&
      !IsThisMachine(HostOf(flags.address))) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--server %s: the key would travel unencrypted to another machine; give --tls or --tls-ca, "
        "or --plaintext if the network is yours alone",
        flags.address));
  }
  return connection;
}

std::unique_ptr<v1::Inference::Stub> Connection::NewStub(int index) const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnswerBytes);
  // Channels of the same arguments would share a connection.
  arguments.SetInt("qianyi.connection", index);
  return v1::Inference::NewStub(grpc::CreateCustomChannel(flags_.address, credentials_, arguments));
}

void Connection::Prepare(grpc::ClientContext* context) const {
  if (!key_.empty()) context->AddMetadata("authorization", "Bearer " + key_);
  if (flags_.timeout_seconds > 0) {
    context->set_deadline(
        std::chrono::system_clock::now() +
        std::chrono::microseconds(static_cast<int64_t>(flags_.timeout_seconds * 1e6)));
  }
}

absl::Status Connection::Explain(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  // What the server itself refuses has details.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    return absl::Status(
        code, absl::StrFormat("--server %s: no answer (%s); is qianyi serve running there, is this "
                              "its gRPC port, and does it use TLS?",
                              flags_.address, status.error_message()));
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && flags_.timeout_seconds > 0) {
    return absl::Status(code, absl::StrFormat("--timeout: not answered within %g s; give it longer",
                                              flags_.timeout_seconds));
  }
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    return absl::Status(code, absl::StrFormat("%s; give --key-file, or set %s",
                                              status.error_message(), kKeyVariable));
  }
  return absl::Status(code, status.error_message());
}

}  // namespace qianyi
