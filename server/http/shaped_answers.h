// Answers in the shapes of /v1/responses and /v1/messages.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "server/http/chat_shapes.h"
#include "server/http/http_server.h"
#include "server/text_call.h"
#include "server/text_service.h"

namespace qianyi {

std::unique_ptr<CallListener> MakeResponsesAnswer(const ShapedRequest& request,
                                                  const Accepted& accepted,
                                                  std::shared_ptr<HttpReply> reply);
std::unique_ptr<CallListener> MakeMessagesAnswer(const ShapedRequest& request,
                                                 const Accepted& accepted,
                                                 std::shared_ptr<HttpReply> reply);
// {"type": "error", "error": {…}}, with the members that errors have elsewhere, too.
HttpResponse MessagesError(const absl::Status& status);

}  // namespace qianyi
