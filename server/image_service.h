// Accepts requests about pictures, and has the threads that wait for painters.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/fair_line.h"
#include "runtime/pictures/painter.h"
#include "server/image_call.h"
#include "server/image_metrics.h"
#include "server/image_request.h"
#include "server/text_service.h"

namespace qianyi {

// Thread-safe.
class ImageService {
 public:
  // `text` outlives this: its models are the ones that paint.
  ImageService(TextService& text, int64_t queue);
  ~ImageService();  // Drain was called before

  // Whether any model here makes or reads pictures.
  bool any() const { return !painters_.empty(); }
  // "64x64", and where a model here magnifies "128x128"; none when pictures cannot be shown.
  std::vector<std::string> Sizes(const ServedModel& model) const;

  // `make_listener` is called once the request is accepted, before it hears of anything; it does
  // not call back. Errors
  // name the field at fault: InvalidArgument, NotFound of a model; ResourceExhausted when too many
  // wait; Unavailable while draining. The result is for Cancel.
  using MakeListener = std::function<std::unique_ptr<ImageListener>(const AcceptedImage&)>;
  absl::StatusOr<uint64_t> Start(ImageRequest request, const MakeListener& make_listener);
  // A no-op once the request has ended.
  void Cancel(uint64_t id);
  void Refuse() { draining_ = true; }  // new requests
  // No new requests; returns when the others have ended, which are cancelled after `seconds`.
  void Drain(double seconds);

 private:
  struct Entry {  // a model of pictures
    const ServedModel* model = nullptr;
    Painter painter;
  };

  absl::StatusOr<const Entry*> Find(std::string_view name, ImageWork work) const;
  absl::StatusOr<uint64_t> Accept(ImageRequest request, const MakeListener& make_listener);
  void Loop();
  void CountRequests();  // with mutex_ held

  TextService& text_;
  const int64_t queue_limit_;
  std::vector<Entry> painters_;
  ImageMetrics metrics_;
  std::atomic<bool> draining_{false};

  std::mutex reading_;  // held while a client's picture is in memory: one at a time
  std::mutex mutex_;    // guards the rest
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::map<uint64_t, std::unique_ptr<ImageCall>> calls_;
  FairLine<uint64_t> waiting_;  // of calls_, which have no thread yet
  uint64_t next_id_ = 1;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace qianyi
