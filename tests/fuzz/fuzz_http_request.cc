// A connection's bytes: requests one after the other, in pieces of a size that the first byte says,
// as the server reads them: by the same parser with the same limits, then host, origin, key,
// priority and trace, then the body by the endpoint's own reader. What is refused is said in valid
// JSON.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "boost/asio/buffer.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "server/access/key_ring.h"
#include "server/access/origin.h"
#include "server/error.h"
#include "server/http/chat_shapes.h"
#include "server/http/http_head.h"
#include "server/http/rest_image_body.h"
#include "server/http/rest_json.h"
#include "server/kserve.h"

namespace {

namespace http = boost::beast::http;
using qianyi::HttpRequest;
using Parser = http::request_parser<http::string_body>;

void CheckError(const absl::Status& status) {
  if (status.ok()) return;
  const auto error = nlohmann::json::parse(qianyi::ToJson(qianyi::ToApiError(status)), nullptr,
                                           /*allow_exceptions=*/false);
  if (error.is_discarded() || !error["error"]["message"].is_string()) __builtin_trap();
}

using Read = std::function<absl::Status(const HttpRequest&)>;

const std::map<std::string, Read, std::less<>>& Endpoints() {
  static const auto& endpoints = *new std::map<std::string, Read, std::less<>>{
      {"/v1/completions",
       [](const HttpRequest& request) { return qianyi::ParseCompletion(request.body).status(); }},
      {"/v1/chat/completions",
       [](const HttpRequest& request) { return qianyi::ParseChat(request.body).status(); }},
      {"/v1/responses",
       [](const HttpRequest& request) { return qianyi::ParseResponses(request.body).status(); }},
      {"/v1/messages",
       [](const HttpRequest& request) { return qianyi::ParseMessages(request.body).status(); }},
      {"/v1/messages/count_tokens",
       [](const HttpRequest& request) { return qianyi::ParseCountTokens(request.body).status(); }},
      {"/v1/tasks/poem",
       [](const HttpRequest& request) {
         return qianyi::ParseTask(qianyi::Task::kPoem, request.body).status();
       }},
      {"/v1/adapters",
       [](const HttpRequest& request) { return qianyi::ParseAdapter(request.body).status(); }},
      {"/v1/images/edits",
       [](const HttpRequest& request) {
         return qianyi::ParseImage(qianyi::ImageWork::kEdit, request.content_type, request.body)
             .status();
       }},
      {"/v2/models/poet/infer",
       [](const HttpRequest& request) {
         return qianyi::ReadInfer("poet", false, qianyi::ParseJson(request.body)).status();
       }},
      {"/v2/models/painter/infer",
       [](const HttpRequest& request) {
         return qianyi::ReadInfer("painter", true, qianyi::ParseJson(request.body)).status();
       }},
  };
  return endpoints;
}

void Dispatch(HttpRequest request, std::string body) {
  request.body = std::move(body);
  const qianyi::OriginRules rules{.hosts = {"example.org"}, .origins = {"https://example.org"}};
  CheckError(qianyi::CheckHost(request.host, rules));
  CheckError(qianyi::CheckOrigin(request.origin, request.host, rules));
  qianyi::Caller caller;
  CheckError(qianyi::ReadPriority(request.priority, &caller));
  const qianyi::Trace trace = qianyi::ParseTraceParent(request.trace_parent);
  if (!trace.trace_id.empty() && trace.trace_id.size() != 32) __builtin_trap();
  if (request.request_id.empty() || request.request_id.size() > 128) __builtin_trap();
  const auto endpoint = Endpoints().find(request.path);
  if (endpoint != Endpoints().end()) CheckError(endpoint->second(request));
}

// Takes the first request from `left`; false when no other can follow.
bool TakeRequest(std::string_view* left, size_t piece) {
  const qianyi::HttpLimits limits;
  Parser parser;
  parser.header_limit(limits.header_bytes);
  parser.body_limit(limits.body_bytes);
  boost::beast::flat_buffer buffer;
  HttpRequest head;
  bool has_head = false;
  while (!parser.is_done()) {
    if (left->empty()) return false;  // the client has left
    const size_t size = std::min(piece, left->size());
    buffer.commit(
        boost::asio::buffer_copy(buffer.prepare(size), boost::asio::buffer(left->data(), size)));
    left->remove_prefix(size);
    for (size_t used = 1; used > 0 && buffer.size() > 0 && !parser.is_done();) {
      boost::beast::error_code error;
      parser.eager(has_head);
      used = parser.put(buffer.data(), error);
      buffer.consume(used);
      if (error == http::error::need_more) error = {};
      if (error) return false;
      if (has_head || !parser.is_header_done()) continue;
      has_head = true;
      head = qianyi::ReadHead(parser.get());
      if (parser.content_length().value_or(0) > limits.body_bytes) __builtin_trap();
    }
  }
  if (!has_head) head = qianyi::ReadHead(parser.get());
  *left = std::string_view(left->data() - buffer.size(), left->size() + buffer.size());
  const bool more = parser.get().keep_alive();
  if (parser.get().body().size() > limits.body_bytes) __builtin_trap();
  Dispatch(std::move(head), std::move(parser.get().body()));
  return more;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view left(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = data[0] == 0 ? left.size() + 1 : data[0];
  while (!left.empty() && TakeRequest(&left, piece)) {
  }
  return 0;
}
