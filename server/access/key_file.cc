#include "server/access/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "openssl/rand.h"
#include "openssl/sha.h"
#include "runtime/parse_json.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxKeys = 10000;
constexpr int64_t kMaxLimit = int64_t{1} << 40;
constexpr std::pair<Scope, const char*> kScopes[] = {
    {Scope::kInference, "inference"}, {Scope::kMetrics, "metrics"}, {Scope::kAdmin, "admin"}};

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

absl::Status Bad(const std::string& where, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s %s", where, what));
}

absl::Status ReadHash(const json& value, const std::string& where, Sha256* hash) {
  const std::string hex = value.is_string() ? value.get<std::string>() : "";
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (hex.size() != 2 * hash->size() || !digits) {
    return Bad(where + ".sha256", "must be 64 hexadecimal digits");
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), hash->begin());
  return absl::OkStatus();
}

absl::Status ReadLimits(const json& entry, const std::string& where, KeyLimits* limits) {
  for (const auto& [name, to] : {std::pair("concurrency", &limits->concurrency),
                                 std::pair("tokens_per_minute", &limits->tokens_per_minute)}) {
    const json value = entry.value(name, json(uint64_t{0}));
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaxLimit}) {
      return Bad(where + "." + name, "must be a whole number, 0 for no limit");
    }
    *to = value.get<int64_t>();
  }
  const json weight = entry.value("weight", json(1));
  if (!weight.is_number()) return Bad(where + ".weight", "must be a number");
  limits->weight = weight.get<double>();
  return absl::OkStatus();
}

absl::StatusOr<ApiKey> ReadKey(const json& entry, const std::string& where) {
  if (!entry.is_object()) return Bad(where, "must be an object");
  static const std::set<std::string> known = {
      "name", "sha256", "scopes", "concurrency", "tokens_per_minute", "weight"};
  for (const auto& [name, value] : entry.items()) {
    if (known.count(name) == 0) return Bad(where + "." + name, "is not known; remove it");
  }
  ApiKey key;
  const json name = entry.value("name", json());
  if (name.is_string()) key.name = name.get<std::string>();
  absl::Status status = ReadHash(entry.value("sha256", json()), where, &key.sha256);
  if (status.ok()) status = ReadLimits(entry, where, &key.limits);
  if (!status.ok()) return status;
  const json scopes = entry.value("scopes", json());
  if (!scopes.is_array()) return Bad(where + ".scopes", "must be a list");
  for (const json& scope : scopes) {
    absl::StatusOr<Scope> parsed = ParseScope(scope.is_string() ? scope.get<std::string>() : "");
    if (!parsed.ok()) return Bad(where + ".scopes", std::string(parsed.status().message()));
    key.scopes.push_back(*parsed);
  }
  if (status = CheckKey(key); !status.ok()) return Bad(where, std::string(status.message()));
  return key;
}

absl::Status Failed(const std::string& path, const char* what) {
  return absl::UnavailableError(
      absl::StrFormat("%s: cannot %s it: %s", path, what, std::strerror(errno)));
}

}  // namespace

const char* NameOf(Scope scope) {
  for (const auto& [known, name] : kScopes) {
    if (known == scope) return name;
  }
  return "public";
}

bool ApiKey::Allows(Scope needed) const {
  const auto has = [this](Scope scope) {
    return std::find(scopes.begin(), scopes.end(), scope) != scopes.end();
  };
  return needed == Scope::kPublic || has(needed) || has(Scope::kAdmin);
}

absl::StatusOr<Scope> ParseScope(std::string_view name) {
  for (const auto& [scope, known] : kScopes) {
    if (name == known) return scope;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("scope '%s' is none; there are inference, metrics and admin", name));
}

absl::StatusOr<std::string> NewApiKey() {
  std::string bytes(32, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size())) !=
      1) {
    return absl::UnavailableError("the system gives no random numbers");
  }
  std::string key = absl::WebSafeBase64Escape(bytes);  // without padding
  return "qy-" + key;
}

Sha256 HashOf(std::string_view key) {
  Sha256 hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  return hash;
}

absl::Status CheckKey(const ApiKey& key) {
  if (!IsName(key.name)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "name '%s' must be 1 to %d letters of a-z and A-Z, digits, '.', '_' and '-'",
        key.name.substr(0, 100), kMaxNameBytes));
  }
  if (key.scopes.empty()) {
    return absl::InvalidArgumentError("scopes must name one of inference, metrics and admin");
  }
  if (!(key.limits.weight >= 0.01 && key.limits.weight <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("weight is %g; it must be 0.01..100", key.limits.weight));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ApiKey>> ParseKeys(const std::string& text) {
  const json file = ParseJson(text);
  const json list = file.is_object() ? file.value("keys", json()) : json();
  if (!list.is_array()) {
    return absl::InvalidArgumentError("must be a JSON object with a list of keys");
  }
  if (list.size() > kMaxKeys) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has %d keys; at most %d are read", list.size(), kMaxKeys));
  }
  std::vector<ApiKey> keys;
  std::set<std::string> names;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrFormat("keys[%d]", i);
    absl::StatusOr<ApiKey> key = ReadKey(list[i], where);
    if (!key.ok()) return key.status();
    if (!names.insert(key->name).second) return Bad(where + ".name", "is another key's, too");
    keys.push_back(*std::move(key));
  }
  return keys;
}

std::string FormatKeys(std::span<const ApiKey> keys) {
  json list = json::array();
  for (const ApiKey& key : keys) {
    json scopes = json::array();
    for (const Scope scope : key.scopes) scopes.push_back(NameOf(scope));
    const absl::string_view hash(reinterpret_cast<const char*>(key.sha256.data()),
                                 key.sha256.size());
    list.push_back({{"name", key.name},
                    {"sha256", absl::BytesToHexString(hash)},
                    {"scopes", std::move(scopes)},
                    {"concurrency", key.limits.concurrency},
                    {"tokens_per_minute", key.limits.tokens_per_minute},
                    {"weight", key.limits.weight}});
  }
  return json{{"keys", std::move(list)}}.dump(2) + "\n";
}

absl::StatusOr<std::vector<ApiKey>> ReadKeyFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (errno == ENOENT)
      return absl::NotFoundError(absl::StrFormat("%s: there is no such file", path));
    return Failed(path, "open");
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) return Failed(path, "read");
  absl::StatusOr<std::vector<ApiKey>> keys = ParseKeys(text);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: %s", path, std::string(keys.status().message())));
}

absl::Status WriteKeyFile(const std::string& path, std::span<const ApiKey> keys) {
  const std::string text = FormatKeys(keys);
  std::string name = path + ".XXXXXX";
  const int file = mkostemp(name.data(), O_CLOEXEC);  // mode 0600
  if (file < 0) return Failed(path, "write beside");
  bool good = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  good = fsync(file) == 0 && good;
  good = close(file) == 0 && good;
  if (good && rename(name.c_str(), path.c_str()) == 0) return absl::OkStatus();
  absl::Status failed = Failed(path, "write");
  unlink(name.c_str());
  return failed;
}

}  // namespace qianyi
