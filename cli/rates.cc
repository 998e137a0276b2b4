#include "cli/rates.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "runtime/known_rates.h"

namespace qianyi {
namespace {

bool ReadsDisk(const Plan& plan) {
  return std::any_of(plan.models.begin(), plan.models.end(), [](const ModelPlan& model) {
    return model.disk_bytes > 0 || model.expert_disk_bytes > 0;
  });
}

}  // namespace

void RateFlags::Add(CLI::App& command) {
  AddRate(command, "--device-bandwidth", &given.device_bandwidth, "of device memory [measured]");
  AddRate(command, "--host-bandwidth", &given.host_bandwidth, "of RAM [measured]");
  AddRate(command, "--link", &given.link, "from RAM to the device [measured]");
  AddRate(command, "--disk", &given.disk, "of reading weights [measured]");
  command
      .add_option("--compute", given.compute,
                  "operations per second, two per multiply-add, e.g. 3e12 [measured]")
      ->check([](const std::string& text) {  // CLI::Range lets NaN pass
        double value = 0;
        const bool good = absl::SimpleAtod(text, &value) && value >= 1 && value <= 1e18;
        return good ? std::string() : "'" + text + "' is not a number from 1 to 1e18";
      })
      ->type_name("OPS");
  command.add_flag("--measure", measure,
                   "measure again what was measured on this machine before and is remembered");
}

absl::StatusOr<Rates> RateFlags::Fill(const ModelFile& file, const Plan& plan,
                                      const RunFlags& run) const {
  const bool on_device = plan.budget.device_bytes > 0;
  const Backend* const device = on_device ? Cuda() : nullptr;
  Rates rates = given;
  if (on_device && device == nullptr && (rates.device_bandwidth == 0 || rates.link == 0)) {
    return absl::InvalidArgumentError(
        "--device-memory without a device to measure needs --device-bandwidth and --link, for "
        "example --device-bandwidth 1000GB/s --link 25GB/s");
  }
  const bool from_disk = rates.disk == 0 && ReadsDisk(plan);
  const std::string path = WeightsPath(file);
  if (from_disk && path.empty()) {
    return absl::InvalidArgumentError(
        "part of the weights would stream from disk; say how fast it is, for example --disk "
        "3GB/s");
  }
  KnownRates known(KnownRates::DefaultFile(), MachineName(),
                   measure ? KnownRates::Measures::kAll : KnownRates::Measures::kUnknown);
  const RatesWanted wanted = {
      .host_bandwidth = rates.host_bandwidth == 0,
      .device = device != nullptr && (rates.device_bandwidth == 0 || rates.link == 0),
      .compute = rates.compute == 0 && (!on_device || device != nullptr),
      .disk = from_disk};
  absl::StatusOr<Rates> found = RatesOf(known, wanted, file.tensors.back().format,
                                        WorkerThreads(run.options.threads), device, path);
  if (!found.ok()) return found.status();
  const auto fill = [](double measured, double* rate) {
    if (*rate == 0) *rate = measured;
  };
  fill(found->device_bandwidth, &rates.device_bandwidth);
  fill(found->host_bandwidth, &rates.host_bandwidth);
  fill(found->link, &rates.link);
  rates.link_back = found->link_back;
  fill(found->disk, &rates.disk);
  fill(found->compute, &rates.compute);
  if (!known.oldest_day().empty()) {
    std::fprintf(stderr, "rates of this machine as measured on %s; --measure measures them again\n",
                 known.oldest_day().c_str());
  }
  return rates;
}

nlohmann::json ToJson(const Rates& rates) {
  return {{"device_bandwidth", rates.device_bandwidth},
          {"host_bandwidth", rates.host_bandwidth},
          {"link", rates.link},
          {"link_back", rates.link_back},
          {"disk", rates.disk},
          {"compute", rates.compute}};
}

}  // namespace qianyi
