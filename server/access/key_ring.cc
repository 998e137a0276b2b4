#include "server/access/key_ring.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "openssl/crypto.h"
#include "server/error.h"

namespace qianyi {
namespace {

constexpr auto kLookEvery = std::chrono::seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Open(std::string path, Log& log) {
  std::unique_ptr<KeyRing> ring(new KeyRing(std::move(path), log));
  if (!ring->required()) return ring;
  ring->version_ = ring->VersionNow();
  absl::StatusOr<std::vector<ApiKey>> keys = ReadKeyFile(ring->path_);
  if (!keys.ok()) {
    return absl::Status(keys.status().code(),
                        absl::StrFormat("--keys %s", std::string(keys.status().message())));
  }
  ring->keys_ = *std::move(keys);
  ring->thread_ = std::thread([self = ring.get()] { self->Watch(); });
  return ring;
}

KeyRing::~KeyRing() {
  {
    std::lock_guard lock(stop_mutex_);
    stop_ = true;
  }
  stopping_.notify_one();
  if (thread_.joinable()) thread_.join();
}

KeyRing::Version KeyRing::VersionNow() const {
  struct stat file;
  if (stat(path_.c_str(), &file) != 0) return {};
  return {file.st_mtim.tv_sec, file.st_mtim.tv_nsec, file.st_size, file.st_ino};
}

void KeyRing::Watch() {
  std::unique_lock lock(stop_mutex_);
  while (!stopping_.wait_for(lock, kLookEvery, [this] { return stop_; })) {
    const Version now = VersionNow();
    if (now == version_) continue;
    version_ = now;
    absl::StatusOr<std::vector<ApiKey>> keys = ReadKeyFile(path_);
    if (!keys.ok()) {
      log_.Warning(
          absl::StrFormat("the keys stay as they were: %s", std::string(keys.status().message())));
      continue;
    }
    std::unique_lock write(mutex_);
    keys_ = *std::move(keys);
  }
}

absl::StatusOr<Caller> KeyRing::Admit(std::string_view presented, Scope needed) const {
  if (!required() || needed == Scope::kPublic) return Caller{};
  const Sha256 hash = HashOf(presented);
  std::shared_lock lock(mutex_);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : keys_) {  // all of them, each in constant time
    if (CRYPTO_memcmp(hash.data(), key.sha256.data(), hash.size()) == 0) found = &key;
  }
  if (found == nullptr) {
    return WithCode(
        absl::UnauthenticatedError(presented.empty()
                                       ? "a key is needed; send it as 'Authorization: Bearer KEY'"
                                       : "the key is not known here; ask the operator for another"),
        "invalid_api_key");
  }
  if (!found->Allows(needed)) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "the key %s may not do this; it needs the scope %s", found->name, NameOf(needed)));
  }
  return Caller{.name = found->name, .limits = found->limits};
}

absl::Status ReadPriority(std::string_view header, Caller* caller) {
  caller->batch = header == "batch";
  if (caller->batch || header.empty() || header == "interactive") return absl::OkStatus();
  return BadParam("x-priority", absl::StrFormat("x-priority is %s; it must be interactive or batch",
                                                std::string(header.substr(0, 50))));
}

std::string_view PresentedKey(std::string_view authorization, std::string_view x_api_key) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size() ||
      !std::equal(kScheme.begin(), kScheme.end(), authorization.begin(),
                  [](char a, char b) { return a == absl::ascii_tolower(b); })) {
    return x_api_key;
  }
  const size_t first = authorization.find_first_not_of(' ', kScheme.size());
  if (first == authorization.npos) return x_api_key;
  return authorization.substr(first, authorization.find_last_not_of(' ') + 1 - first);
}

}  // namespace qianyi
