#include "runtime/choose_batch.h"

#include <algorithm>
#include <vector>

namespace qianyi {
namespace {

constexpr double kEnough = 0.9;

bool Streams(const Plan& plan) {
  return std::any_of(plan.models.begin(), plan.models.end(), [](const ModelPlan& model) {
    return model.disk_bytes > 0 || model.expert_disk_bytes > 0;
  });
}

}  // namespace

absl::StatusOr<int64_t> ChooseBatch(
    const std::function<absl::StatusOr<Plan>(int64_t batch)>& plan_for, const Rates& rates,
    bool cpu_rows) {
  std::vector<double> tokens_per_second;  // of 1, 2, 3, ...
  for (int64_t batch = 1; batch <= kMostChosenBatch; ++batch) {
    const absl::StatusOr<Plan> plan = plan_for(batch);
    if (batch > 1 && (!plan.ok() || (rates.disk == 0 && Streams(*plan)))) break;
    if (!plan.ok()) return plan.status();
    const Bound bound = EstimateBound(*plan, rates, cpu_rows);
    tokens_per_second.push_back(static_cast<double>(batch) / bound.step_seconds());
  }
  const double enough =
      kEnough * *std::max_element(tokens_per_second.begin(), tokens_per_second.end());
  const auto first = std::find_if(tokens_per_second.begin(), tokens_per_second.end(),
                                  [&](double rate) { return rate >= enough; });
  return 1 + (first - tokens_per_second.begin());
}

}  // namespace qianyi
