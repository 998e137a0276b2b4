#include "server/metrics_text.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "prometheus/metric_type.h"
#include "prometheus/text_serializer.h"

namespace qianyi {
namespace {

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

// The trimmed parts between separators.
std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const size_t end = text.find(separator);
    parts.emplace_back(Trimmed(text.substr(0, end)));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// The q of one entry of an Accept header, 1 when it says nothing.
double QualityOf(const std::vector<std::string>& entry) {
  for (const std::string& part : entry) {
    double quality = 0;
    if (!absl::StartsWithIgnoreCase(part, "q=")) continue;
    return absl::SimpleAtod(part.substr(2), &quality) ? quality : 0;
  }
  return 1;
}

// "le" is a float there, and floats have a point.
void AppendBuckets(std::string_view text, std::string* out) {
  constexpr std::string_view kBound = "le=\"";
  for (size_t at; (at = text.find(kBound)) != text.npos;) {
    at += kBound.size();
    const size_t end = text.find('"', at);
    const std::string_view bound = text.substr(at, end - at);
    out->append(text.substr(0, end));
    if (bound.find_first_not_of("0123456789") == bound.npos) out->append(".0");
    text.remove_prefix(end);
  }
  out->append(text);
}

}  // namespace

MetricsFormat PreferredMetricsFormat(std::string_view accept) {
  double open = 0, plain = 0;
  for (const std::string& one : Split(accept, ',')) {
    const std::vector<std::string> entry = Split(one, ';');
    if (absl::EqualsIgnoreCase(entry[0], "application/openmetrics-text")) {
      open = std::max(open, QualityOf(entry));
    } else if (absl::EqualsIgnoreCase(entry[0], "text/plain")) {
      plain = std::max(plain, QualityOf(entry));
    }
  }
  return open > 0 && open >= plain ? MetricsFormat::kOpenMetrics : MetricsFormat::kPrometheusText;
}

const char* MetricsContentType(MetricsFormat format) {
  return format == MetricsFormat::kOpenMetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

std::string MetricsText(const std::vector<prometheus::MetricFamily>& families,
                        MetricsFormat format) {
  const prometheus::TextSerializer serializer;
  if (format == MetricsFormat::kPrometheusText) return serializer.Serialize(families);
  std::string text;
  for (const prometheus::MetricFamily& family : families) {
    std::string one = serializer.Serialize({family});
    if (family.type == prometheus::MetricType::Counter) {
      // A counter's family has the name without the ending that its samples have.
      const std::string name = family.name.substr(0, family.name.size() - sizeof("_total") + 1);
      one = absl::StrReplaceAll(one, {{"# HELP " + family.name + " ", "# HELP " + name + " "},
                                      {"# TYPE " + family.name + " ", "# TYPE " + name + " "}});
    }
    if (family.type == prometheus::MetricType::Histogram) {
      AppendBuckets(one, &text);
    } else {
      text += one;
    }
  }
  return text + "# EOF\n";
}

}  // namespace qianyi
