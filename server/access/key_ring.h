// Who may ask for what: the keys of a file, read again whenever it changes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/access/key_file.h"
#include "server/log.h"

namespace qianyi {

// Whoever sent a request. Without keys it is nobody in particular, and has no limits.
struct Caller {
  std::string name;
  KeyLimits limits = {};
  bool batch = false;  // waits behind other work
  std::string request_id = {};
  Trace trace = {};
};

// Thread-safe. A thread of its own looks at the file once a second; a file that is damaged or gone
// leaves the keys as they were, and is complained of in the log.
class KeyRing {
 public:
  // An empty path asks nobody for a key.
  // `log` outlives this.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Open(std::string path, Log& log);
  ~KeyRing();

  bool required() const { return !path_.empty(); }
  // Unauthenticated without a key that is known, PermissionDenied when it lacks the scope. What is
  // public is asked nothing. Takes as long for any key that is wrong.
  absl::StatusOr<Caller> Admit(std::string_view presented, Scope needed) const;

 private:
  struct Version {  // of the file
    int64_t seconds = 0, nanoseconds = 0, bytes = -1;
    uint64_t inode = 0;
    bool operator==(const Version&) const = default;
  };

  KeyRing(std::string path, Log& log) : path_(std::move(path)), log_(log) {}
  Version VersionNow() const;
  void Watch();

  const std::string path_;
  Log& log_;
  Version version_;  // of the watching thread, once it runs
  mutable std::shared_mutex mutex_;
  std::vector<ApiKey> keys_;
  std::mutex stop_mutex_;
  std::condition_variable stopping_;
  bool stop_ = false;
  std::thread thread_;
};

// "batch" or "interactive", of the header X-Priority; empty is interactive. InvalidArgument else.
absl::Status ReadPriority(std::string_view header, Caller* caller);

// The key of "Bearer KEY", or of "x-api-key: KEY" when there is no other.
std::string_view PresentedKey(std::string_view authorization, std::string_view x_api_key);

}  // namespace qianyi
