// What operators watch of pictures; registered beside the rest of /metrics.
#pragma once

#include <map>
#include <span>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/image_request.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace qianyi {

// Thread-safe.
class ImageMetrics {
 public:
  // Of one kind of work with one model.
  struct Work {
    prometheus::Counter& pictures;         // sent, or described
    prometheus::Counter& codes;            // drawn, or words of captions
    prometheus::Histogram& first_seconds;  // from acceptance to the first whole row, or to the end
    prometheus::Histogram& seconds;        // from acceptance to the end
    FinishMetrics finished;                // those of the model
  };

  // Counts nothing of models of text. `registry` outlives this.
  ImageMetrics(prometheus::Registry& registry,
               std::span<const std::unique_ptr<ServedModel>> models);

  Work& Of(const ServedModel& model, ImageWork work) { return works_.at({&model, work}); }
  void SetRequests(int64_t running, int64_t waiting);

 private:
  prometheus::Family<prometheus::Gauge>& requests_;
  prometheus::Gauge* running_ = nullptr;  // null: there is no model of pictures
  prometheus::Gauge* waiting_ = nullptr;
  std::map<std::pair<const ServedModel*, ImageWork>, Work> works_;
};

}  // namespace qianyi
