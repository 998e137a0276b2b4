#include "server/image_service.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/error.h"
#include "server/picture_models.h"

namespace qianyi {
namespace {

absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down; try another");
}

// Whether a model has the role itself, and not only by the help of another.
bool HasRole(const ServedModel& model, ImageWork work) {
  return work == ImageWork::kCaption ? model.picture->captions : model.picture->paints;
}

int64_t ThreadsFor(std::span<const std::unique_ptr<ServedModel>> models) {
  int64_t threads = 0;
  for (const auto& model : models) {
    if (model->picture != nullptr) threads = std::max(threads, model->use().batch);
  }
  return std::min(threads, kMostPictureCalls);
}

}  // namespace

ImageService::ImageService(TextService& text, int64_t queue)
    : text_(text), queue_limit_(queue), metrics_(text.metrics().registry(), text.models()) {
  for (const auto& model : text.models()) {
    if (model->picture == nullptr) continue;
    absl::StatusOr<Painter> painter = PainterOf(*model, text.models());
    if (painter.ok()) painters_.push_back({model.get(), *std::move(painter)});
  }
  metrics_.SetRequests(0, 0);
  for (int64_t i = ThreadsFor(text.models()); i > 0; --i) {
    threads_.emplace_back([this] { Loop(); });
  }
}

ImageService::~ImageService() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::vector<std::string> ImageService::Sizes(const ServedModel& model) const {
  const auto entry = std::find_if(painters_.begin(), painters_.end(),
                                  [&](const Entry& one) { return one.model == &model; });
  return entry == painters_.end() ? std::vector<std::string>() : PictureSizes(entry->painter);
}

absl::StatusOr<const ImageService::Entry*> ImageService::Find(std::string_view name,
                                                              ImageWork work) const {
  std::vector<const Entry*> fit;
  for (const Entry& entry : painters_) {
    if (entry.model->name == name) return &entry;
    if (HasRole(*entry.model, work)) fit.push_back(&entry);
  }
  if (name.empty() && fit.size() == 1) return fit.front();
  if (name.empty() && fit.empty()) {
    return WithParam(
        WithCode(absl::NotFoundError("no model of pictures is served here that does this; start "
                                     "the server with --model and the folder of one"),
                 "model_not_found"),
        "model");
  }
  if (!name.empty()) {
    absl::StatusOr<FoundModel> found = text_.FindModel(name);
    if (!found.ok()) return found.status();
  }
  const std::string names = absl::StrJoin(
      fit, ", ", [](std::string* out, const Entry* entry) { out->append(entry->model->name); });
  return BadParam("model",
                  name.empty()
                      ? absl::StrFormat("model is missing; name one of: %s", names)
                      : absl::StrFormat("model %s is one of text; name one of pictures%s%s",
                                        name.substr(0, 100), names.empty() ? "" : ": ", names));
}

absl::StatusOr<uint64_t> ImageService::Start(ImageRequest request,
                                             const MakeListener& make_listener) {
  absl::StatusOr<uint64_t> id = Accept(std::move(request), make_listener);
  if (!id.ok()) {
    text_.metrics().CountRejected(ReasonOf(id.status()));
  }
  return id;
}

absl::StatusOr<uint64_t> ImageService::Accept(ImageRequest request,
                                              const MakeListener& make_listener) {
  if (draining_) return ShuttingDown();
  absl::StatusOr<const Entry*> entry = Find(request.model, request.work);
  if (!entry.ok()) return entry.status();
  const Caller caller = request.caller;
  const Load load{.choices = std::max<int64_t>(request.parameters.n, request.candidates),
                  .bytes = request.body_bytes};
  absl::StatusOr<std::unique_ptr<ImageCall>> call =
      ImageCall::Prepare(*(*entry)->model, (*entry)->painter, std::move(request));
  if (!call.ok()) return call.status();
  // Before pictures are read, and anything is run.
  absl::StatusOr<Ticket> ticket = text_.Admit(caller, *(*entry)->model, load, caller.batch);
  if (!ticket.ok()) return ticket.status();
  (*call)->Hold(*std::move(ticket));
  std::lock_guard lock(mutex_);
  if (draining_) return ShuttingDown();
  if (waiting_.size() >= queue_limit_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d requests about pictures are waiting, which is the limit; try again "
                        "later",
                        waiting_.size()));
  }
  (*call)->Listen(make_listener((*call)->accepted()));
  const uint64_t id = next_id_++;
  waiting_.Enter((*call)->turn(), (*call)->cost(), id, id);
  calls_.emplace(id, *std::move(call));
  CountRequests();
  wake_.notify_one();
  return id;
}

void ImageService::CountRequests() {
  metrics_.SetRequests(static_cast<int64_t>(calls_.size()) - waiting_.size(), waiting_.size());
}

void ImageService::Cancel(uint64_t id) {
  std::unique_ptr<ImageCall> gone;
  {
    std::lock_guard lock(mutex_);
    const auto call = calls_.find(id);
    if (call == calls_.end()) return;
    call->second->Cancel();
    if (waiting_.Remove([id](uint64_t waits) { return waits == id; }) == 0) {
      return;  // its thread ends it
    }
    gone = std::move(call->second);
    calls_.erase(call);
    CountRequests();
    idle_.notify_all();
  }
  gone->End(absl::CancelledError("the request was cancelled"), metrics_);
}

void ImageService::Drain(double seconds) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto nobody = [this] { return calls_.empty(); };
  idle_.wait_for(lock, std::chrono::duration<double>(seconds), nobody);
  std::vector<uint64_t> left;
  for (const auto& [id, call] : calls_) left.push_back(id);
  lock.unlock();
  for (const uint64_t id : left) Cancel(id);
  lock.lock();
  idle_.wait(lock, nobody);
}

void ImageService::Loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    const uint64_t id = waiting_.Serve();
    ImageCall* call = calls_.find(id)->second.get();
    CountRequests();
    lock.unlock();
    call->End(call->Work(reading_, metrics_), metrics_);
    lock.lock();
    calls_.erase(id);
    CountRequests();
    idle_.notify_all();
  }
}

}  // namespace qianyi
