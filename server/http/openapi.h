// The document that describes the HTTP port, made of what the port itself works by: its routes, and
// the table of parameters.
#pragma once

#include <span>
#include <string>

#include "nlohmann/json.hpp"
#include "server/access/key_file.h"

namespace qianyi {

struct RouteInfo {
  Scope scope;
  std::string method;
  std::string path;  // ends in '/': with a name behind it
};

// OpenAPI 3.1. A route that nobody has described stands in it without a summary, which a test
// finds.
nlohmann::json OpenApi(std::span<const RouteInfo> routes);

// Schemas of bodies and answers, by the name that routes refer to them by.
nlohmann::json OpenApiSchemas();

}  // namespace qianyi
