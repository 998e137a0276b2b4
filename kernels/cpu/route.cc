// Choosing is scalar and compiled once: only the logits and their exponentials take time.
#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Experts whose logits one worker computes at a time.
constexpr int64_t kPieceExperts = 32;

// The index of the largest of `values`, the first of equals, among those not in taken[0, count).
// Always an index, whatever the values are.
int32_t Best(const float* values, int64_t n, const int32_t* taken, int64_t count) {
  int32_t best = -1;
  for (int32_t i = 0; i < n; ++i) {
    if (best >= 0 && !(values[i] > values[best])) continue;
    if (std::find(taken, taken + count, i) == taken + count) best = i;
  }
  return best;
}

void ChooseBest(const float* values, int64_t n, int64_t count, int32_t* chosen) {
  for (int64_t j = 0; j < count; ++j) chosen[j] = Best(values, n, chosen, j);
}

// In groups that are not kept the choosing scores become 0, as in the original.
void KeepGroups(const Route& args, float* choosing) {
  const int64_t size = args.experts / args.groups;
  float group_scores[kMaxExpertGroups];
  int32_t kept[kMaxExpertGroups];
  for (int64_t g = 0; g < args.groups; ++g) {
    int32_t best[2];
    const float* group = choosing + g * size;
    ChooseBest(group, size, 2, best);
    group_scores[g] = group[best[0]] + group[best[1]];
  }
  ChooseBest(group_scores, args.groups, args.kept_groups, kept);
  for (int32_t g = 0; g < args.groups; ++g) {
    if (std::find(kept, kept + args.kept_groups, g) != kept + args.kept_groups) continue;
    std::fill_n(choosing + g * size, size, 0.0f);
  }
}

void ChooseBySigmoid(const Route& args, const RowKernels& kernels, float* scores, int32_t* chosen,
                     float* weights) {
  float* choosing = scores + args.experts;
  kernels.sigmoid(scores, args.experts, scores);
  for (int64_t e = 0; e < args.experts; ++e) {
    choosing[e] = args.correction == nullptr ? scores[e] : scores[e] + args.correction[e];
  }
  if (args.kept_groups < args.groups) KeepGroups(args, choosing);
  ChooseBest(choosing, args.experts, args.top_k, chosen);
  float sum = 0.0f;
  for (int64_t j = 0; j < args.top_k; ++j) sum += scores[chosen[j]];
  for (int64_t j = 0; j < args.top_k; ++j) {
    const float score = scores[chosen[j]];
    weights[j] = (args.normalize ? score / (sum + 1e-20f) : score) * args.scale;
  }
}

void Choose(const Route& args, const RowKernels& kernels, float* scores, int32_t* chosen,
            float* weights) {
  switch (args.gate) {
    case RouterGate::kSigmoid:
      ChooseBySigmoid(args, kernels, scores, chosen, weights);
      return;
    case RouterGate::kNaive:
      ChooseBest(scores, args.experts, args.top_k, chosen);
      for (int64_t j = 0; j < args.top_k; ++j) weights[j] = scores[chosen[j]];
      kernels.softmax(weights, args.top_k, weights);
      return;
    case RouterGate::kSwitch:
      kernels.softmax(scores, args.experts, scores);
      ChooseBest(scores, args.experts, 1, chosen);
      weights[0] = scores[chosen[0]];
      return;
  }
}

// In the order of tokens, hence by one worker. `loads` counts by expert.
void DropBeyondCapacity(const Route& args, float* loads) {
  std::fill_n(loads, args.experts, 0.0f);
  for (int64_t i = 0; i < args.x.rows * args.top_k; ++i) {
    float& load = loads[args.chosen[i]];
    load += 1.0f;
    if (load > static_cast<float>(args.capacity)) args.chosen[i] = -1;
  }
}

}  // namespace

void RunRoute(const Route& args, ThreadPool& pool, const RowKernels& kernels) {
  const int64_t pieces = (args.experts + kPieceExperts - 1) / kPieceExperts;
  const int64_t tokens = args.x.rows;
  // Token after token for the same experts, whose weights stay near.
  pool.Run(tokens * pieces, tokens < 16 ? 1 : 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i % tokens, first = i / tokens * kPieceExperts;
      const int64_t count = std::min(kPieceExperts, args.experts - first);
      float* logits = args.scores + t * 2 * args.experts + first;
      kernels.lora_down(args.x.f32(t), args.weight + first * args.x.cols, args.x.cols, count,
                        logits);
      for (int64_t e = 0; e < count; ++e) {
        if (args.bias != nullptr) logits[e] += args.bias[first + e];
        if (args.noise != nullptr) logits[e] += args.noise[t * args.experts + first + e];
      }
    }
  });
  pool.Run(args.x.rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      Choose(args, kernels, args.scores + t * 2 * args.experts, args.chosen + t * args.top_k,
             args.weights + t * args.top_k);
    }
  });
  if (args.x.rows > 0 && args.capacity > 0) DropBeyondCapacity(args, args.scores);
  if (args.uniform == nullptr || args.top_k < 2) return;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    if (2.0f * args.weights[t * args.top_k + 1] < args.uniform[t]) {
      args.chosen[t * args.top_k + 1] = -1;
    }
  }
}

}  // namespace qianyi::cpu
