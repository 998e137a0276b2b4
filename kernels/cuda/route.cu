// Routing in three kernels: logits, a warp for each expert; choices, a warp for each token; and
// what looks at all tokens, which is asked for seldom, by one thread.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Lane l sums elements l, l + 32, … in order; then WarpSum.
struct LogitsKernel {
  static constexpr int kThreads = 256;
  Route args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), e = BlockIndex(1) * (kThreads / 32) + Warp();
    if (e >= args.experts) return;  // the whole warp
    const int64_t cols = args.x.cols;
    const Global<float> x = RowOf(args.x, t);
    const Global<const float> weight(args.weight + e * cols, cols);
    float sum = 0.0f;
    for (int64_t k = Lane(); k < cols; k += 32) sum = Fma(x.Load(k), weight.Load(k), sum);
    sum = WarpSum(sum);
    if (Lane() != 0) return;
    if (args.bias != nullptr) sum += Global<const float>(args.bias, args.experts).Load(e);
    if (args.noise != nullptr) {
      sum += Global<const float>(args.noise + t * args.experts, args.experts).Load(e);
    }
    Global<float>(args.scores + t * 2 * args.experts, args.experts).Store(e, sum);
  }
};

struct ChooseKernel {
  static constexpr int kThreads = 32;
  Route args;

  struct Token {
    Global<float> scores, choosing, weights;
    Global<int32_t> chosen;
  };

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), experts = args.experts, k = args.top_k;
    const Token token{Global<float>(args.scores + t * 2 * experts, experts),
                      Global<float>(args.scores + (t * 2 + 1) * experts, experts),
                      Global<float>(args.weights + t * k, k),
                      Global<int32_t>(args.chosen + t * k, k)};
    QIANYI_SHARED(float, groups, kMaxExpertGroups);
    QIANYI_SHARED(int32_t, kept, kMaxExpertGroups);
    switch (args.gate) {
      case RouterGate::kSigmoid:
        BySigmoid(token, groups, kept);
        return;
      case RouterGate::kNaive:
        ChooseBest(token.scores, experts, k, token.chosen);
        for (int64_t j = Lane(); j < k; j += 32) {
          token.weights.Store(j, token.scores.Load(token.chosen.Load(j)));
        }
        WarpBarrier();
        Softmax(token.weights, k);
        return;
      case RouterGate::kSwitch:
        Softmax(token.scores, experts);
        ChooseBest(token.scores, experts, 1, token.chosen);
        if (Lane() == 0) token.weights.Store(0, token.scores.Load(token.chosen.Load(0)));
        return;
    }
  }

  // Whether a comes before b: it is larger, or as large and earlier. There is one of each pair that
  // does, whatever the values are.
  QIANYI_DEVICE static bool Before(float a, int32_t a_index, float b, int32_t b_index) {
    if (b_index < 0 || a_index < 0) return a_index >= 0;
    return a > b || (!(b > a) && a_index < b_index);
  }

  // The first `count` of values[0, n) in descending order, ties to the lower index.
  template <typename Values, typename Chosen>
  QIANYI_DEVICE static void ChooseBest(const Values& values, int64_t n, int64_t count,
                                       const Chosen& chosen) {
    for (int64_t j = 0; j < count; ++j) {
      float best = 0.0f;
      int32_t index = -1;
      for (int64_t i = Lane(); i < n; i += 32) {
        bool taken = false;
        for (int64_t before = 0; before < j; ++before) taken |= chosen.Load(before) == i;
        const float value = values.Load(i);
        if (taken || !Before(value, static_cast<int32_t>(i), best, index)) continue;
        best = value;
        index = static_cast<int32_t>(i);
      }
      for (int mask = 16; mask > 0; mask /= 2) {
        const float other = ShuffleXor(best, mask);
        const int32_t other_index = ShuffleXor(index, mask);
        if (!Before(other, other_index, best, index)) continue;
        best = other;
        index = other_index;
      }
      if (Lane() == 0) chosen.Store(j, index);
      WarpBarrier();
    }
  }

  QIANYI_DEVICE static void Softmax(const Global<float>& values, int64_t n) {
    float max = -__builtin_huge_valf();
    for (int64_t i = Lane(); i < n; i += 32) {
      const float value = values.Load(i);
      max = value > max ? value : max;
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = ShuffleXor(max, mask);
      max = other > max ? other : max;
    }
    float sum = 0.0f;
    for (int64_t i = Lane(); i < n; i += 32) {
      const float e = Exp(values.Load(i) - max);
      values.Store(i, e);
      sum += e;
    }
    sum = WarpSum(sum);
    for (int64_t i = Lane(); i < n; i += 32) values.Store(i, values.Load(i) / sum);
    WarpBarrier();
  }

  // In groups that are not kept the choosing scores become 0. A group's score is the sum of its
  // best two.
  QIANYI_DEVICE void KeepGroups(const Token& token, const Shared<float>& groups,
                                const Shared<int32_t>& kept) const {
    const int64_t size = args.experts / args.groups;
    for (int64_t g = Lane(); g < args.groups; g += 32) {
      int32_t best[2] = {-1, -1};
      for (int32_t i = 0; i < size; ++i) {
        const float value = token.choosing.Load(g * size + i);
        const auto at = [&](int32_t index) {
          return index < 0 ? 0.0f : token.choosing.Load(g * size + index);
        };
        if (Before(value, i, at(best[0]), best[0])) {
          best[1] = best[0];
          best[0] = i;
        } else if (Before(value, i, at(best[1]), best[1])) {
          best[1] = i;
        }
      }
      groups.Store(
          g, token.choosing.Load(g * size + best[0]) + token.choosing.Load(g * size + best[1]));
    }
    WarpBarrier();
    ChooseBest(groups, args.groups, args.kept_groups, kept);
    for (int64_t e = Lane(); e < args.experts; e += 32) {
      bool stays = false;
      for (int64_t j = 0; j < args.kept_groups; ++j) stays |= kept.Load(j) == e / size;
      if (!stays) token.choosing.Store(e, 0.0f);
    }
    WarpBarrier();
  }

  QIANYI_DEVICE void BySigmoid(const Token& token, const Shared<float>& groups,
                               const Shared<int32_t>& kept) const {
    for (int64_t e = Lane(); e < args.experts; e += 32) {
      const float score = 1.0f / (1.0f + Exp(-token.scores.Load(e)));
      token.scores.Store(e, score);
      const float more = args.correction == nullptr
                             ? 0.0f
                             : Global<const float>(args.correction, args.experts).Load(e);
      token.choosing.Store(e, score + more);
    }
    WarpBarrier();
    if (args.kept_groups < args.groups) KeepGroups(token, groups, kept);
    ChooseBest(token.choosing, args.experts, args.top_k, token.chosen);
    float sum = 0.0f;
    for (int64_t j = 0; j < args.top_k; ++j) sum += token.scores.Load(token.chosen.Load(j));
    for (int64_t j = Lane(); j < args.top_k; j += 32) {
      const float score = token.scores.Load(token.chosen.Load(j));
      token.weights.Store(j, (args.normalize ? score / (sum + 1e-20f) : score) * args.scale);
    }
  }
};

// In the order of tokens, hence by one thread; the counts are where the scores were.
struct DropKernel {
  static constexpr int kThreads = 32;
  Route args;

  QIANYI_DEVICE void operator()() const {
    if (ThreadIndex() != 0) return;
    const int64_t choices = args.x.rows * args.top_k;
    const Global<int32_t> chosen(args.chosen, choices);
    if (args.capacity > 0) {
      const Global<float> loads(args.scores, args.experts);
      for (int64_t e = 0; e < args.experts; ++e) loads.Store(e, 0.0f);
      for (int64_t i = 0; i < choices; ++i) {
        const int32_t expert = chosen.Load(i);
        const float load = loads.Load(expert) + 1.0f;
        loads.Store(expert, load);
        if (load > static_cast<float>(args.capacity)) chosen.Store(i, -1);
      }
    }
    if (args.uniform == nullptr || args.top_k < 2) return;
    for (int64_t t = 0; t < args.x.rows; ++t) {
      const int64_t second = t * args.top_k + 1;
      const float weight = Global<const float>(args.weights, choices).Load(second);
      if (2.0f * weight < Global<const float>(args.uniform, args.x.rows).Load(t)) {
        chosen.Store(second, -1);
      }
    }
  }
};

}  // namespace

void RunRoute(const Route& args, Stream stream) {
  if (args.x.rows == 0) return;
  Launch(stream, {args.x.rows, CeilDiv(args.experts, LogitsKernel::kThreads / 32)},
         LogitsKernel{args});
  Launch(stream, {args.x.rows}, ChooseKernel{args});
  if (args.capacity > 0 || args.uniform != nullptr) Launch(stream, {1}, DropKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
