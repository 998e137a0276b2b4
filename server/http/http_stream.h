// A connection's bytes, with TLS or without.
#pragma once

#include <optional>
#include <utility>

#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/asio/ssl/stream.hpp"
#include "boost/beast/core/tcp_stream.hpp"

namespace qianyi {

// An asynchronous stream as Asio and Beast know them. Used on its executor, a strand.
class HttpStream {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;

  // `tls` may be null, and outlives this.
  HttpStream(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context* tls)
      : tcp_(std::move(socket)) {
    if (tls != nullptr) tls_.emplace(tcp_, *tls);
  }

  executor_type get_executor() { return tcp_.get_executor(); }
  boost::beast::tcp_stream& tcp() { return tcp_; }
  boost::asio::ip::tcp::socket& socket() { return tcp_.socket(); }
  bool encrypted() const { return tls_.has_value(); }

  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_.has_value()) {
      tls_->async_read_some(buffers, std::forward<Handler>(handler));
    } else {
      tcp_.async_read_some(buffers, std::forward<Handler>(handler));
    }
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_.has_value()) {
      tls_->async_write_some(buffers, std::forward<Handler>(handler));
    } else {
      tcp_.async_write_some(buffers, std::forward<Handler>(handler));
    }
  }
  // handler(error), at once without TLS.
  template <typename Handler>
  void Handshake(Handler handler) {
    if (tls_.has_value()) {
      tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(handler));
    } else {
      handler(boost::system::error_code());
    }
  }
  // Says to the client that nothing more comes.
  template <typename Handler>
  void Finish(Handler handler) {
    if (tls_.has_value()) {
      tls_->async_shutdown(std::move(handler));
      return;
    }
    boost::system::error_code error;
    tcp_.socket().shutdown(boost::asio::ip::tcp::socket::shutdown_send, error);
    handler(error);
  }

 private:
  boost::beast::tcp_stream tcp_;
  std::optional<boost::asio::ssl::stream<boost::beast::tcp_stream&>> tls_;
};

}  // namespace qianyi
