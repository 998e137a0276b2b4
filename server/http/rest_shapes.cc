// Routes of the chat shapes.
#include <utility>

#include "server/error.h"
#include "server/http/chat_shapes.h"
#include "server/http/rest_api.h"
#include "server/http/shaped_answers.h"

namespace qianyi {

using Reply = std::shared_ptr<HttpReply>;

void RestApi::AddShapeRoutes() {
  routes_.push_back({Scope::kInference, "POST", "/v1/responses",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartShaped(request, ParseResponses(request.body), MakeResponsesAnswer,
                                   ErrorResponse, reply);
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/messages",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartShaped(request, ParseMessages(request.body), MakeMessagesAnswer,
                                   MessagesError, reply);
                     }});
  routes_.push_back(
      {Scope::kInference, "POST", "/v1/messages/count_tokens",
       [this](const HttpRequest& request, const Reply& reply) { CountTokens(request, reply); }});
}

void RestApi::StartShaped(const HttpRequest& http, absl::StatusOr<ShapedRequest> request,
                          MakeShaped make, HttpResponse (*refuse)(const absl::Status&),
                          const Reply& reply) {
  if (!request.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(refuse(request.status()));
    return;
  }
  Start(
      http, &request->rest.text,
      [&](const Accepted& accepted) { return make(*request, accepted, reply); }, refuse, reply);
}

void RestApi::CountTokens(const HttpRequest& http, const Reply& reply) {
  absl::StatusOr<ShapedRequest> request = ParseCountTokens(http.body);
  absl::StatusOr<int64_t> tokens =
      request.ok() ? int64_t{0} : absl::StatusOr<int64_t>(request.status());
  if (request.ok()) {
    Charge(http, &request->rest.text);
    tokens = service_.CountTokens(request->rest.text);
  }
  if (!tokens.ok()) {
    service_.metrics().CountRejected(ReasonOf(tokens.status()));
    reply->Send(MessagesError(tokens.status()));
    return;
  }
  HttpResponse response;
  response.body = Dump({{"input_tokens", *tokens}}) + "\n";
  reply->Send(std::move(response));
}

}  // namespace qianyi
