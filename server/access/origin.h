// Browsers that were led here by other people's pages, told by what they say of themselves.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace qianyi {

struct OriginRules {
  std::vector<std::string> hosts;    // names that this server is reached by, besides addresses
  std::vector<std::string> origins;  // pages that may call it: "https://example.org"
  bool any_host = false;             // keys are asked for, which no foreign page has
};

// PermissionDenied when `host` (of the Host header) is a name that nobody gave this server: a page
// whose name was pointed at our address (DNS rebinding) sends its own. Addresses and localhost
// always pass; no Host at all does, as browsers always send one.
absl::Status CheckHost(std::string_view host, const OriginRules& rules);
// PermissionDenied when a page of another origin calls. `origin` may be empty.
absl::Status CheckOrigin(std::string_view origin, std::string_view host, const OriginRules& rules);
bool IsAllowedOrigin(std::string_view origin, const OriginRules& rules);

}  // namespace qianyi
