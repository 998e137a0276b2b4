#include "runtime/choose_batch.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "runtime/models/registry.h"

namespace qianyi {
namespace {

constexpr uint64_t kGiB = 1ull << 30;
constexpr Rates kRates = {.host_bandwidth = 30e9, .disk = 3e9, .compute = 1e12};

const ModelFile& Glm9b() {
  static const ModelFile* file = [] {
    auto spec = DescribeModel(*BuiltinConfig("glm-4-9b"));
    return new ModelFile(*ModelFile::Lay(*spec, {DType::kI4, 32}));
  }();
  return *file;
}

auto PlansWithin(uint64_t host_bytes) {
  return [host_bytes](int64_t batch) {
    const ModelUse use = {.file = &Glm9b(), .context_tokens = 256, .batch = batch};
    return MakePlan({&use, 1}, {.host_bytes = host_bytes, .process_bytes = 32 << 20});
  };
}

double TokensPerSecond(uint64_t host_bytes, int64_t batch, const Rates& rates) {
  const auto plan = PlansWithin(host_bytes)(batch);
  return plan.ok() ? batch / EstimateBound(*plan, rates, true).step_seconds() : 0;
}

void ExpectLeastThatIsEnough(uint64_t host_bytes, const Rates& rates) {
  const absl::StatusOr<int64_t> chosen = ChooseBatch(PlansWithin(host_bytes), rates, true);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  double best = 0;
  for (int64_t batch = 1; batch <= kMostChosenBatch; ++batch) {
    best = std::max(best, TokensPerSecond(host_bytes, batch, rates));
  }
  EXPECT_GE(TokensPerSecond(host_bytes, *chosen, rates), 0.9 * best) << *chosen;
  for (int64_t batch = 1; batch < *chosen; ++batch) {
    EXPECT_LT(TokensPerSecond(host_bytes, batch, rates), 0.9 * best) << *chosen;
  }
}

TEST(ChooseBatchTest, IsTheLeastWithNearlyAllTokensPerSecond) {
  for (const uint64_t host_bytes : {2 * kGiB, 3 * kGiB, 4 * kGiB, 8 * kGiB}) {
    for (const double compute : {1e11, 3e11, 1e12, 1e13}) {
      for (const double disk : {0.5e9, 3e9, 12e9}) {
        ExpectLeastThatIsEnough(host_bytes,
                                {.host_bandwidth = 30e9, .disk = disk, .compute = compute});
      }
    }
  }
}

// The slower the disk beside arithmetic, the more sequences share what it reads.
TEST(ChooseBatchTest, StreamingWantsMoreThanMemory) {
  const auto streaming = ChooseBatch(PlansWithin(3 * kGiB), kRates, true);
  const auto resident = ChooseBatch(PlansWithin(8 * kGiB), kRates, true);
  ASSERT_TRUE(streaming.ok() && resident.ok());
  EXPECT_GT(*streaming, *resident);
}

TEST(ChooseBatchTest, NeverStreamsFromADiskOfUnknownSpeed) {
  const Rates rates = {.host_bandwidth = 30e9, .compute = 1e13};
  const auto chosen = ChooseBatch(PlansWithin(6 * kGiB), rates, true);
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(PlansWithin(6 * kGiB)(*chosen)->models[0].disk_bytes, 0u);
  EXPECT_GT(PlansWithin(6 * kGiB)(kMostChosenBatch)->models[0].disk_bytes, 0u);
}

TEST(ChooseBatchTest, SaysWhyNotEvenOneFits) {
  const auto chosen = ChooseBatch(PlansWithin(40 << 20), kRates, true);
  EXPECT_TRUE(absl::IsResourceExhausted(chosen.status())) << chosen.status();
}

}  // namespace
}  // namespace qianyi
