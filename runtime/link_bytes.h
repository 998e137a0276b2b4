// What steps have moved of weights, beside what links can move: how close serving is to its bound.
#pragma once

#include "runtime/engine_stats.h"
#include "runtime/plan.h"
#include "runtime/storage/weight_store_stats.h"

namespace qianyi {

// Bytes by link. Weights count where they are computed from, so what came from disk or over the
// link counts there as well.
struct LinkBytes {
  double device_memory = 0;
  double host_memory = 0;
  double host_to_device = 0;
  double disk = 0;
};

// Of the first model of a plan, all steps together. Every step uses all weights once but experts,
// which count as often as steps needed them; those of layers that are on a device are not counted.
LinkBytes MovedWeights(const Plan& plan, const EngineStats& engine,
                       const WeightStoreStats& weights);

}  // namespace qianyi
