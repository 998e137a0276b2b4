// What operators watch, in the Prometheus text format. Labels never hold what a user sent.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/served_model.h"

namespace qianyi {

struct ModelMetrics {
  prometheus::Histogram& first_token_seconds;
  prometheus::Histogram& inter_token_seconds;
  prometheus::Histogram& request_seconds;
};

// Thread-safe.
class ServerMetrics {
 public:
  // `models` outlive this.
  explicit ServerMetrics(std::span<const std::unique_ptr<ServedModel>> models);

  ModelMetrics& Of(const ServedModel& model) { return models_.at(&model); }
  // `handler` is the route's pattern, "other" where there is none.
  void CountHttp(const std::string& handler, const std::string& method, int status);
  void CountGrpc(const std::string& method, int code);
  void CountRejected(const std::string& reason);

  // For those who count more.
  prometheus::Registry& registry() { return registry_; }

  // The whole page of /metrics, engines' counters read now.
  std::string Render() const;

 private:
  const std::span<const std::unique_ptr<ServedModel>> served_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& http_;
  prometheus::Family<prometheus::Counter>& grpc_;
  prometheus::Family<prometheus::Counter>& rejected_;
  std::map<const ServedModel*, ModelMetrics> models_;
};

}  // namespace qianyi
