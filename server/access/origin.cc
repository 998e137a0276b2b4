#include "server/access/origin.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

// "[::1]:8080" and "::1" to "::1"; "localhost:8080" to "localhost".
std::string NameOf(std::string_view host) {
  if (!host.empty() && host.front() == '[') return std::string(host.substr(1, host.find(']') - 1));
  return std::string(host.substr(0, host.rfind(':')));
}

bool IsAddress(const std::string& name) {
  in6_addr address;
  return inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

bool Same(std::string_view a, std::string_view b) {
  return absl::EqualsIgnoreCase({a.data(), a.size()}, {b.data(), b.size()});
}

bool Has(const std::vector<std::string>& list, std::string_view value) {
  return std::any_of(list.begin(), list.end(),
                     [&](const std::string& entry) { return Same(entry, value); });
}

}  // namespace

absl::Status CheckHost(std::string_view host, const OriginRules& rules) {
  if (host.empty() || rules.any_host) return absl::OkStatus();
  const std::string name = NameOf(host);
  if (Same(name, "localhost") || IsAddress(name) || Has(rules.hosts, name)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrFormat("Host is '%s', which is no name of this server; the operator can add it with "
                      "--allow-host",
                      name.substr(0, 100)));
}

bool IsAllowedOrigin(std::string_view origin, const OriginRules& rules) {
  return Has(rules.origins, origin);
}

absl::Status CheckOrigin(std::string_view origin, std::string_view host, const OriginRules& rules) {
  const bool own = Same(origin, absl::StrFormat("http://%s", host)) ||
                   Same(origin, absl::StrFormat("https://%s", host));
  if (origin.empty() || own || IsAllowedOrigin(origin, rules)) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrFormat("Origin is '%s'; pages of other origins may not call this server unless the "
                      "operator says so with --allow-origin",
                      origin.substr(0, 100)));
}

}  // namespace qianyi
