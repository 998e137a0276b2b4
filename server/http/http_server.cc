#include "server/http/http_server.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "absl/strings/str_format.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/strand.hpp"
#include "server/http/http_session.h"

namespace qianyi {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

class Server final : public HttpServer {
 public:
  Server(const HttpLimits& limits, HttpHooks hooks)
      : shared_{limits, std::move(hooks), HttpMail(context_)}, acceptor_(context_) {}

  ~Server() override {
    StopAccepting();
    for (const auto& session : Open()) session->Close();
    work_.reset();
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
    shared_.mail.Close();  // before the context, which the sessions in it use
  }

  absl::Status UseTls(const Tls& tls) {
    if (!tls.on()) return absl::OkStatus();
    asio::ssl::context& context = shared_.tls.emplace(asio::ssl::context::tls_server);
    boost::system::error_code error;
    SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
    context.use_certificate_chain(asio::buffer(tls.certificate), error);
    if (!error) context.use_private_key(asio::buffer(tls.key), asio::ssl::context::pem, error);
    if (!error && tls.asks_clients()) {
      context.add_certificate_authority(asio::buffer(tls.client_ca), error);
      context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
      // Sessions are not resumed: each connection shows its certificate anew.
      SSL_CTX_set_session_cache_mode(context.native_handle(), SSL_SESS_CACHE_OFF);
    }
    if (!error) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("the files of --tls-cert and --tls-key do not work: %s", error.message()));
  }

  absl::Status Listen(const std::string& host, int port) {
    boost::system::error_code error;
    const auto address = asio::ip::make_address(host, error);
    if (error) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--host %s is not an address; give one such as 127.0.0.1 or 0.0.0.0", host));
    }
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(port));
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrFormat("cannot listen on %s:%d: %s; choose another with --http-port", host, port,
                          error.message()));
    }
    port_ = acceptor_.local_endpoint().port();
    return absl::OkStatus();
  }

  void Run() {
    Accept();
    for (int i = 0; i < shared_.limits.threads; ++i) {
      threads_.emplace_back([this] {
        pthread_setname_np(pthread_self(), "http");
        context_.run();
      });
    }
  }

  int port() const override { return port_; }

  void Finish(double seconds) override {
    StopAccepting();
    for (const auto& session : Open()) session->Finish();
    std::unique_lock lock(mutex_);
    ended_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return open_ == 0; });
  }

 private:
  void StopAccepting() {
    asio::post(acceptor_.get_executor(), [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
    });
  }

  std::vector<std::shared_ptr<HttpSession>> Open() {
    std::vector<std::shared_ptr<HttpSession>> open;
    std::lock_guard lock(mutex_);
    for (const auto& weak : sessions_) {
      if (auto session = weak.lock()) open.push_back(std::move(session));
    }
    return open;
  }

  void Accept() {
    acceptor_.async_accept(asio::make_strand(context_), [this](auto error, tcp::socket socket) {
      if (!error) Admit(std::move(socket));
      if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
      std::lock_guard lock(mutex_);
      if (open_ < shared_.limits.connections) {
        Accept();
      } else {
        full_ = true;  // the next connection waits in the kernel's queue until one ends
      }
    });
  }

  // A session may end at any time after its start, and takes the lock then: never start or drop
  // one while holding it.
  void Admit(tcp::socket socket) {
    auto session =
        std::make_shared<HttpSession>(std::move(socket), shared_, [this] { OnSessionEnd(); });
    {
      std::lock_guard lock(mutex_);
      ++open_;
      shared_.hooks.on_connection(1);
      sessions_.remove_if([](const auto& old) { return old.expired(); });
      sessions_.push_back(session);
    }
    session->Start();
  }

  void OnSessionEnd() {
    std::lock_guard lock(mutex_);
    shared_.hooks.on_connection(-1);
    if (--open_ == 0) ended_.notify_all();
    if (!full_) return;
    full_ = false;
    asio::post(acceptor_.get_executor(), [this] {
      if (acceptor_.is_open()) Accept();
    });
  }

  HttpShared shared_;
  std::mutex mutex_;               // guards the next four
  std::condition_variable ended_;  // all sessions have
  std::list<std::weak_ptr<HttpSession>> sessions_;
  int open_ = 0;
  bool full_ = false;
  int port_ = 0;
  asio::io_context context_;  // its destructor ends the sessions, which use what is above
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_{
      context_.get_executor()};
  tcp::acceptor acceptor_;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& host, int port,
                                                              const HttpLimits& limits,
                                                              const Tls& tls, HttpHooks hooks) {
  auto server = std::make_unique<Server>(limits, std::move(hooks));
  if (absl::Status status = server->UseTls(tls); !status.ok()) return status;
  if (absl::Status status = server->Listen(host, port); !status.ok()) return status;
  server->Run();
  return server;
}

}  // namespace qianyi
