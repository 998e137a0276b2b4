#include "server/http/http_head.h"

#include "boost/beast/http/field.hpp"
#include "boost/beast/http/verb.hpp"
#include "server/request_id.h"

namespace qianyi {

HttpRequest ReadHead(const boost::beast::http::request_header<>& message) {
  namespace http = boost::beast::http;
  const auto text = [](boost::beast::string_view value) {
    return std::string(value.data(), value.size());
  };
  HttpRequest request;
  const bool head = message.method() == http::verb::head;
  request.method = head ? "GET" : text(message.method_string());
  const std::string target = text(message.target());
  request.path = target.substr(0, target.find('?'));
  request.content_type = text(message[http::field::content_type]);
  request.host = text(message[http::field::host]);
  request.origin = text(message[http::field::origin]);
  request.accept = text(message[http::field::accept]);
  const std::string authorization = text(message[http::field::authorization]);
  const std::string x_api_key = text(message["x-api-key"]);
  request.key = std::string(PresentedKey(authorization, x_api_key));
  request.priority = text(message["x-priority"]);
  request.trace_parent = text(message["traceparent"]);
  request.request_id = RequestIdFrom(text(message["x-request-id"]));
  return request;
}

}  // namespace qianyi
