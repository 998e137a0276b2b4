// What operators watch, in the Prometheus text format. Labels never hold what a user sent.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "runtime/sink.h"
#include "server/admission.h"
#include "server/metrics_text.h"
#include "server/served_model.h"

namespace qianyi {

// Answers that ended, by how: qianyi_finished_total of one model.
struct FinishMetrics {
  FinishMetrics(prometheus::Registry& registry, const std::string& model);
  // `why` is of an answer whose status is OK.
  void Count(const absl::Status& status, FinishReason why);

  prometheus::Counter& stop;
  prometheus::Counter& length;
  prometheus::Counter& cancelled;
  prometheus::Counter& failed;
};

struct ModelMetrics {
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& first_token_seconds;
  prometheus::Histogram& inter_token_seconds;
  prometheus::Histogram& request_seconds;
  FinishMetrics finished;
};

// Thread-safe.
class ServerMetrics {
 public:
  // Both outlive this.
  ServerMetrics(std::span<const std::unique_ptr<ServedModel>> models, const Admission& admission);

  ModelMetrics& Of(const ServedModel& model) { return models_.at(&model); }
  // `handler` is the route's pattern, "other" where there is none.
  void CountHttp(const std::string& handler, const std::string& method, int status);
  void CountGrpc(const std::string& method, int code);
  void CountRejected(const std::string& reason);
  // Connections of HTTP, requests of HTTP and calls of gRPC: one more that is open, or one fewer.
  enum class Open { kConnection, kHttpRequest, kGrpcCall };
  void CountOpen(Open what, int change);

  // For those who count more.
  prometheus::Registry& registry() { return registry_; }

  // The whole page of /metrics, engines' counters read now.
  std::string Render(MetricsFormat format) const;

 private:
  const std::span<const std::unique_ptr<ServedModel>> served_;
  const Admission& admission_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& http_;
  prometheus::Family<prometheus::Counter>& grpc_;
  prometheus::Family<prometheus::Counter>& rejected_;
  std::array<prometheus::Gauge*, 3> open_;  // by Open
  std::map<const ServedModel*, ModelMetrics> models_;
};

}  // namespace qianyi
