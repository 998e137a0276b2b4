// The two formats that Prometheus reads /metrics in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "prometheus/metric_family.h"

namespace qianyi {

enum class MetricsFormat : uint8_t { kPrometheusText, kOpenMetrics };

// What an Accept header prefers; the plain text where it says nothing of either.
MetricsFormat PreferredMetricsFormat(std::string_view accept);
const char* MetricsContentType(MetricsFormat format);
// Names of counters end in _total.
std::string MetricsText(const std::vector<prometheus::MetricFamily>& families,
                        MetricsFormat format);

}  // namespace qianyi
