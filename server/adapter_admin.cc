#include "server/adapter_admin.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxWaiting = 16;
constexpr size_t kMaxPathBytes = 1024;

absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down; try another");
}

bool IsBelow(const fs::path& path, const fs::path& folder) {
  const auto [at, end] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return at == folder.end() && end != path.end();
}

}  // namespace

AdapterAdmin::AdapterAdmin(TextService& service, std::string folder)
    : service_(service), folder_(std::move(folder)) {
  if (!folder_.empty()) thread_ = std::thread([this] { Loop(); });
}

AdapterAdmin::~AdapterAdmin() { Stop(); }

void AdapterAdmin::Stop() {
  std::deque<std::pair<AdapterRequest, Done>> rest;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    rest.swap(waiting_);
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  for (auto& [request, done] : rest) done(ShuttingDown());
}

absl::Status AdapterAdmin::CheckOn() const {
  if (!folder_.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      "adapters cannot be loaded or unloaded here; the operator turns it on with "
      "--adapter-folder");
}

absl::StatusOr<std::string> AdapterAdmin::Resolve(const std::string& path) const {
  const fs::path relative(path);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (path.empty() || path.size() > kMaxPathBytes || path.find('\0') != path.npos || climbs ||
      relative.is_absolute()) {
    return BadParam("path",
                    "path must be relative to the folder of --adapter-folder, without '..', and "
                    "name a folder in it");
  }
  std::error_code error;
  const fs::path folder = fs::canonical(folder_, error);
  // Where links lead counts, not how they are spelt.
  const fs::path target = error ? fs::path() : fs::canonical(folder / relative, error);
  if (error || !IsBelow(target, folder) || !fs::is_directory(target, error)) {
    return WithParam(absl::NotFoundError(absl::StrFormat(
                         "path '%s' is no folder below that of --adapter-folder", path)),
                     "path");
  }
  return target.string();
}

void AdapterAdmin::Load(AdapterRequest request, Done done) {
  absl::Status status = CheckOn();
  if (status.ok()) {
    std::lock_guard lock(mutex_);
    if (!stop_ && waiting_.size() < kMaxWaiting) {
      waiting_.emplace_back(std::move(request), std::move(done));
      wake_.notify_one();
      return;
    }
    status = stop_ ? ShuttingDown()
                   : absl::ResourceExhaustedError(absl::StrFormat(
                         "%d adapters wait to be loaded, which is the limit; try again later",
                         waiting_.size()));
  }
  done(status);
}

absl::StatusOr<FoundModel> AdapterAdmin::DoLoad(const AdapterRequest& request) const {
  if (service_.draining()) return ShuttingDown();
  absl::StatusOr<FoundModel> found = service_.FindModel(request.model);
  if (!found.ok()) return found.status();
  if (found->adapter != nullptr) {
    return BadParam(
        "model", absl::StrFormat("model is %s; an adapter is loaded into a model", request.model));
  }
  absl::StatusOr<std::string> folder = Resolve(request.path);
  if (!folder.ok()) return folder.status();
  auto adapter = found->model->engine->adapters().Load(request.name, *folder);
  if (!adapter.ok()) {
    // What is wrong in the files is told without where they lie.
    std::string message(adapter.status().message());
    if (const size_t at = message.find(*folder); at != message.npos) {
      message.replace(at, folder->size(), request.path);
    }
    return absl::Status(adapter.status().code(), message);
  }
  found->adapter = *std::move(adapter);
  return found;
}

absl::Status AdapterAdmin::Unload(const std::string& name) {
  if (absl::Status status = CheckOn(); !status.ok()) return status;
  const size_t colon = name.rfind(':');
  const std::string full = colon == name.npos ? ":" + name : name;
  absl::StatusOr<FoundModel> found = service_.FindModel(full);
  if (!found.ok()) return found.status();
  if (found->adapter == nullptr) {
    return BadParam("model", absl::StrFormat("%s is a model, not an adapter", name));
  }
  const std::string adapter = found->adapter->name();
  found->adapter.reset();
  return found->model->engine->adapters().Unload(adapter);
}

void AdapterAdmin::Loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    auto [request, done] = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    done(DoLoad(request));
    done = nullptr;
    lock.lock();
  }
}

}  // namespace qianyi
