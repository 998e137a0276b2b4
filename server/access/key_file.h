// API keys as they are kept: never the key itself, only its hash.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qianyi {

// What a route or method asks of a key. An admin's key may do everything.
enum class Scope : uint8_t { kPublic, kInference, kMetrics, kAdmin };
const char* NameOf(Scope scope);

struct KeyLimits {
  int64_t concurrency = 0;        // choices waiting or running at once; 0 = any number
  int64_t tokens_per_minute = 0;  // prompts and answers together; 0 = any number
  double weight = 1;              // share of the places while others wait, 0.01..100
};

using Sha256 = std::array<uint8_t, 32>;

struct ApiKey {
  std::string name;  // 1 to 64 letters of a-z and A-Z, digits, '.', '_' and '-'; not secret
  Sha256 sha256 = {};
  std::vector<Scope> scopes;
  KeyLimits limits = {};

  bool Allows(Scope needed) const;
};

// 256 random bits, "qy-" before them: as there is nothing to guess, one round of a plain hash is
// enough. Unavailable when the system has no randomness.
absl::StatusOr<std::string> NewApiKey();
Sha256 HashOf(std::string_view key);

// {"keys": [{"name", "sha256", "scopes": ["inference", …], "concurrency", "tokens_per_minute",
// "weight"}]}; errors name the entry and the member.
absl::StatusOr<std::vector<ApiKey>> ParseKeys(const std::string& text);
std::string FormatKeys(std::span<const ApiKey> keys);
// InvalidArgument, with what is wrong.
absl::Status CheckKey(const ApiKey& key);
absl::StatusOr<Scope> ParseScope(std::string_view name);

// A file that is not there is NotFound. Writing replaces the file whole, readable by its owner.
absl::StatusOr<std::vector<ApiKey>> ReadKeyFile(const std::string& path);
absl::Status WriteKeyFile(const std::string& path, std::span<const ApiKey> keys);

}  // namespace qianyi
