// What the server takes from the head of an HTTP request.
#pragma once

#include <string>

#include "boost/beast/http/message.hpp"
#include "server/http/http_server.h"

namespace qianyi {

// All of it but the body. HEAD is taken for GET.
HttpRequest ReadHead(const boost::beast::http::request_header<>& message);

}  // namespace qianyi
