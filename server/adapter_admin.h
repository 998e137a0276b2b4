// Loading and unloading of adapters while the server runs.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/text_request.h"
#include "server/text_service.h"

namespace qianyi {

// Thread-safe. A thread of its own reads adapters one after the other; the engine goes on
// meanwhile.
class AdapterAdmin {
 public:
  // `service` outlives this. `folder` empty: Load and Unload answer Unimplemented.
  AdapterAdmin(TextService& service, std::string folder);
  ~AdapterAdmin();  // stops
  // Finishes what it reads; the rest, and what comes later, hears Unavailable.
  void Stop();

  // `done` is called once, now when the request is refused at once (a path outside of the folder,
  // too many waiting), else on the thread. Errors as of AdapterSet::Load.
  using Done = std::function<void(const absl::StatusOr<FoundModel>&)>;
  void Load(AdapterRequest request, Done done);
  // By "MODEL:ADAPTER", or "ADAPTER" when one model is served.
  absl::Status Unload(const std::string& name);

 private:
  absl::Status CheckOn() const;
  // The folder a request means; InvalidArgument when it lies elsewhere.
  absl::StatusOr<std::string> Resolve(const std::string& path) const;
  absl::StatusOr<FoundModel> DoLoad(const AdapterRequest& request) const;
  void Loop();

  TextService& service_;
  const std::string folder_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<AdapterRequest, Done>> waiting_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace qianyi
