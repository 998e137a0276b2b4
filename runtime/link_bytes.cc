#include "runtime/link_bytes.h"

namespace qianyi {

LinkBytes MovedWeights(const Plan& whole, const EngineStats& engine,
                       const WeightStoreStats& weights) {
  const ModelPlan& plan = whole.models[0];
  const double steps = static_cast<double>(engine.steps);
  const double expert_bytes = static_cast<double>(weights.experts.used_bytes);
  LinkBytes moved;
  moved.disk = static_cast<double>(weights.read_bytes);
  if (whole.budget.device_bytes == 0) {
    moved.host_memory = steps * static_cast<double>(plan.weight_bytes) + expert_bytes;
    return moved;
  }
  const uint64_t over_link = plan.host_bytes - plan.host_rows_bytes + plan.disk_bytes;
  moved.host_to_device = steps * static_cast<double>(over_link);
  moved.device_memory = steps * static_cast<double>(plan.device_bytes + over_link);
  moved.host_memory = steps * static_cast<double>(plan.host_rows_bytes) + expert_bytes;
  return moved;
}

}  // namespace qianyi
