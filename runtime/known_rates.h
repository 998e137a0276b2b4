// What measure.h measures takes half a second each and disturbs what else runs, so it is done once:
// the figures are kept in a file of the user's cache, each under what it is a figure of.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/plan.h"

namespace qianyi {

// One thread. A file that cannot be read counts as empty, and one that cannot be written is not:
// nothing is lost but time.
class KnownRates {
 public:
  // $XDG_CACHE_HOME/qianyi/rates.json, or that of ~/.cache; empty where there is neither.
  static std::string DefaultFile();
  enum class Measures { kNothing, kUnknown, kAll };
  // Of `machine`; the file may hold several. What is asked for is measured once at most.
  KnownRates(std::string file, std::string machine, Measures measures);
  ~KnownRates();  // writes what is new
  KnownRates(const KnownRates&) = delete;
  KnownRates& operator=(const KnownRates&) = delete;

  // The rate under `name`; where it is not known, that of `measure`, which is kept if above 0, or
  // 0 where nothing is to be measured.
  double Get(const std::string& name, const std::function<double()>& measure);
  // The day of the oldest that Get gave and did not measure, "2026-12-01"; empty: none.
  const std::string& oldest_day() const { return oldest_day_; }

 private:
  struct Rate {
    double value = 0;  // per second
    std::string day;
  };
  const std::string file_, machine_;
  const Measures measures_;
  std::map<std::string, Rate> known_;
  std::map<std::string, Rate> measured_;  // now
  std::string oldest_day_;
};

// "AMD EPYC, family 25 model 1, 2 processors, avx2, 24 GiB": rates of another are not its own.
std::string MachineName();

// A file of weights, to measure its disk by; empty: there is none (--synth).
std::string WeightsPath(const ModelFile& file);

// Which of the rates that bound a plan.
struct RatesWanted {
  bool host_bandwidth = true;
  bool device = true;   // its memory and its link, where there is one
  bool compute = true;  // of the device, or without one of the processor
  bool disk = true;     // that `path` lies on, where that is not empty
};
// As known, or measured now; others are 0. `device` may be null.
absl::StatusOr<Rates> RatesOf(KnownRates& known, const RatesWanted& wanted, PackedFormat format,
                              int threads, const Backend* device, const std::string& path);

}  // namespace qianyi
