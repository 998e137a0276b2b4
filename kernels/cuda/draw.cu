// Tokens drawn from logits. A block has one row and passes over it once for each bit of what it
// looks for: the k-th largest logit, then the weight at which the sum of top-p is passed. Nothing
// is sorted, and every sum has an order that depends on the vocabulary's size alone. Then what is
// left runs the race of kernels/sampling.h.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t kKeyOfMinusInfinity = 0x007fffffu;

// Grows with the value; 0 of NaN alone.
QIANYI_DEVICE inline uint32_t KeyOf(float value) {
  if (value != value) return 0;
  const uint32_t bits = BitsOf(value + 0.0f);  // one zero
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
QIANYI_DEVICE inline float ValueOf(uint32_t key) {
  return FloatOf((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Joins a value of every thread: the warp in a fixed tree, then the warps in order. The same in all
// threads; `scratch` may be used again at once.
template <int kThreads, typename T, typename Join>
QIANYI_DEVICE T OverBlock(T value, const Shared<T>& scratch, Join join) {
  for (int mask = 16; mask > 0; mask /= 2) value = join(value, ShuffleXor(value, mask));
  Barrier();  // whoever still reads what was there before
  if (Lane() == 0) scratch.Store(Warp(), value);
  Barrier();
  T all = scratch.Load(0);
  for (int warp = 1; warp < kThreads / 32; ++warp) all = join(all, scratch.Load(warp));
  return all;
}

struct DrawTokensKernel {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / 32;
  DrawTokens args;

  // What may be drawn: logits from a key on, whose weights are at least `min_weight` and have more
  // than these bits; of those that have just these bits the first `equal`.
  struct Kept {
    float largest;
    float temperature;
    float min_weight;
    uint32_t key;
    uint32_t bits;
    double equal;
  };

  QIANYI_DEVICE static float WeightOf(float logit, const Kept& kept) {
    if (KeyOf(logit) < kept.key) return 0.0f;
    float weight;
    if (BitsOf(kept.largest) == kInfinityBits) {
      weight = BitsOf(logit) == kInfinityBits ? 1.0f : 0.0f;
    } else {
      weight = Exp((logit - kept.largest) / kept.temperature);
    }
    return weight < 1.17549435e-38f || weight < kept.min_weight ? 0.0f : weight;
  }

  // The largest logit's key above, and below how far from the end it first stands.
  QIANYI_DEVICE uint64_t Best(const Global<float>& logits) const {
    QIANYI_SHARED(uint64_t, scratch, kWarps);
    uint64_t best = 0;
    for (int64_t i = ThreadIndex(); i < args.logits.cols; i += kThreads) {
      const uint64_t it = static_cast<uint64_t>(KeyOf(logits.Load(i))) << 32 |
                          (0xffffffffu - static_cast<uint32_t>(i));
      best = it > best ? it : best;
    }
    return OverBlock<kThreads>(best, scratch, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }

  // The key of the k-th largest logit: 1, which keeps all, when NaN leave fewer.
  QIANYI_DEVICE uint32_t KeyOfKthLargest(const Global<float>& logits, int32_t k) const {
    QIANYI_SHARED(int32_t, scratch, kWarps);
    uint32_t key = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
      int32_t count = 0;
      for (int64_t i = ThreadIndex(); i < args.logits.cols; i += kThreads) {
        count += KeyOf(logits.Load(i)) >= (key | bit) ? 1 : 0;
      }
      count = OverBlock<kThreads>(count, scratch, [](int32_t a, int32_t b) { return a + b; });
      if (count >= k) key |= bit;
    }
    return key == 0 ? 1 : key;
  }

  // The sum of the weights with more than these bits.
  QIANYI_DEVICE double SumAbove(const Global<float>& logits, const Kept& kept, int64_t bits) const {
    QIANYI_SHARED(double, scratch, kWarps);
    double sum = 0.0;
    for (int64_t i = ThreadIndex(); i < args.logits.cols; i += kThreads) {
      const float weight = WeightOf(logits.Load(i), kept);
      if (static_cast<int64_t>(BitsOf(weight)) > bits) sum += static_cast<double>(weight);
    }
    return OverBlock<kThreads>(sum, scratch, [](double a, double b) { return a + b; });
  }

  // Keeps every weight before which the sum, from the largest on, does not exceed `mass`.
  QIANYI_DEVICE void CutByMass(const Global<float>& logits, double mass, Kept* kept) const {
    int64_t passed = -1, floor = 0x3f800000;  // more bits than `passed` exceed it; the best has 1
    double above = 0.0;
    while (floor - passed > 1) {
      const int64_t middle = (floor + passed) / 2;
      const double sum = SumAbove(logits, *kept, middle);
      if (sum <= mass) {
        floor = middle;
        above = sum;
      } else {
        passed = middle;
      }
    }
    if (floor == 0) return;
    kept->bits = static_cast<uint32_t>(floor);
    const double weight = static_cast<double>(FloatOf(kept->bits));
    kept->equal = static_cast<double>(static_cast<int64_t>((mass - above) / weight)) + 1.0;
  }

  // Of the tokens before `end`, those whose weights have just these bits.
  QIANYI_DEVICE int64_t Equals(const Global<float>& logits, const Kept& kept, int64_t end) const {
    QIANYI_SHARED(int64_t, scratch, kWarps);
    int64_t count = 0;
    for (int64_t i = ThreadIndex(); i < end; i += kThreads) {
      count += BitsOf(WeightOf(logits.Load(i), kept)) == kept.bits ? 1 : 0;
    }
    return OverBlock<kThreads>(count, scratch, [](int64_t a, int64_t b) { return a + b; });
  }

  // Before which there are as many equals as are kept.
  QIANYI_DEVICE int64_t EndOfEquals(const Global<float>& logits, const Kept& kept) const {
    int64_t end = args.logits.cols;
    const auto enough = [&](int64_t before) {
      return static_cast<double>(Equals(logits, kept, before)) >= kept.equal;
    };
    if (kept.bits == 0 || !enough(end)) return end;
    int64_t too_few = 0;
    while (end - too_few > 1) {
      const int64_t middle = (end + too_few) / 2;
      (enough(middle) ? end : too_few) = middle;
    }
    return end;
  }

  // The token that wins the race: the first of those that finish at the same time.
  QIANYI_DEVICE int64_t Race(const Global<float>& logits, const Kept& kept, uint64_t key) const {
    QIANYI_SHARED(double, times, kWarps);
    QIANYI_SHARED(int64_t, winners, kWarps);
    const int64_t end_of_equals = EndOfEquals(logits, kept);
    double best = 1e300;
    int64_t winner = args.logits.cols;
    for (int64_t i = ThreadIndex(); i < args.logits.cols; i += kThreads) {
      const float weight = WeightOf(logits.Load(i), kept);
      const uint32_t bits = BitsOf(weight);
      if (bits == 0 || bits < kept.bits || (bits == kept.bits && i >= end_of_equals)) continue;
      const uint32_t noise = RaceNoise(key, static_cast<uint32_t>(i));
      if (!(RaceAtLeast(noise) < weight * RaceBound(best))) continue;
      const double finish = RaceFinish(key, noise) / static_cast<double>(weight);
      if (finish >= best) continue;
      best = finish;
      winner = i;
    }
    const double first =
        OverBlock<kThreads>(best, times, [](double a, double b) { return a < b ? a : b; });
    if (best != first) winner = args.logits.cols;
    return OverBlock<kThreads>(winner, winners, [](int64_t a, int64_t b) { return a < b ? a : b; });
  }

  QIANYI_DEVICE void operator()() const {
    const int64_t index = BlockIndex(0);
    const int64_t row = Global<const int32_t>(args.rows, args.count).Load(index);
    const TokenDraw draw = Global<const TokenDraw>(args.draws, args.count).Load(index);
    const Global<float> logits = RowOf(args.logits, row);
    const Global<int32_t> tokens(args.tokens, args.count);
    const uint64_t best = Best(logits);
    const uint32_t key = static_cast<uint32_t>(best >> 32);
    if (draw.temperature == 0.0f || key <= kKeyOfMinusInfinity) {
      const uint32_t token = 0xffffffffu - static_cast<uint32_t>(best);
      if (ThreadIndex() == 0) {
        tokens.Store(index, key <= kKeyOfMinusInfinity ? 0 : static_cast<int32_t>(token));
      }
      return;
    }
    Kept kept = {ValueOf(key), draw.temperature, 0.0f, 1, 0, 0.0};
    if (draw.top_k > 0 && draw.top_k < args.logits.cols) {
      kept.key = KeyOfKthLargest(logits, draw.top_k);
    }
    kept.min_weight = draw.min_p;
    if (draw.top_p < 1.0f) {
      const double sum = SumAbove(logits, kept, 0);
      CutByMass(logits, static_cast<double>(draw.top_p) * sum, &kept);
    }
    const int64_t token = Race(logits, kept, draw.key);
    if (ThreadIndex() == 0)
      tokens.Store(index, token < args.logits.cols ? static_cast<int32_t>(token) : 0);
  }
};

}  // namespace

void RunDrawTokens(const DrawTokens& args, Stream stream) {
  if (args.count > 0) Launch(stream, {args.count}, DrawTokensKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
