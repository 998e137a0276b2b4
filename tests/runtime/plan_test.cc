#include "runtime/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/backend.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kGiB = 1ull << 30;

ModelFile Lay(const char* name, PackedFormat format) {
  auto config = BuiltinConfig(name);
  EXPECT_TRUE(config.ok()) << config.status();
  auto spec = DescribeModel(*config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto file = ModelFile::Lay(*spec, format);
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

const ModelFile& Glm9b() {
  static const ModelFile* file = new ModelFile(Lay("glm-4-9b", {DType::kI4, 32}));
  return *file;
}

absl::StatusOr<Plan> PlanFor(const ModelFile& file, uint64_t host, uint64_t device = 0,
                             int64_t batch = 1, int64_t context = 2048) {
  const ModelUse use = {.file = &file, .context_tokens = context, .batch = batch};
  return MakePlan({&use, 1},
                  {.host_bytes = host, .device_bytes = device, .process_bytes = 32 << 20});
}

TEST(PlanTest, EverythingFits) {
  const auto plan = PlanFor(Glm9b(), 16 * kGiB);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_EQ(model.disk_bytes, 0u);
  EXPECT_EQ(model.ring_bytes, 0u);
  EXPECT_EQ(model.host_bytes, model.weight_bytes);
  EXPECT_EQ(model.embedding_resident_bytes, model.embedding_bytes);
  EXPECT_LE(plan->host_used_bytes(), 16 * kGiB);
}

const ModelFile& Experts30b() {
  static const ModelFile* file = new ModelFile(Lay("glm-moe-30b-a3b", {DType::kI4, 32}));
  return *file;
}

// Everything that each step reads is in memory before any expert is, and no more is used than
// given.
TEST(PlanTest, ExpertsGetWhatTheOthersLeave) {
  double before = -1;
  for (uint64_t host = 2 * kGiB; host <= 24 * kGiB; host += 2 * kGiB) {
    const auto plan = PlanFor(Experts30b(), host);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const ModelPlan& model = plan->models[0];
    EXPECT_LE(plan->host_used_bytes(), host);
    EXPECT_EQ(model.disk_bytes, 0u);
    EXPECT_EQ(model.host_bytes, model.weight_bytes);
    EXPECT_LE(model.expert_cache_bytes, model.expert_bytes);
    EXPECT_GT(model.expert_cache_bytes, before);
    before = model.expert_cache_bytes == model.expert_bytes
                 ? -1
                 : static_cast<double>(model.expert_cache_bytes);
    const Bound bound = EstimateBound(*plan, {.host_bandwidth = 50e9, .disk = 2e9, .compute = 1e12},
                                      /*cpu_rows=*/false);
    if (model.expert_cache_bytes == model.expert_bytes) {
      EXPECT_EQ(bound.disk, 0);
    } else {
      EXPECT_EQ(bound.link(), "disk");
      // 8 of 128 experts, as far as they are not in memory.
      const double missing = 1 - 1.0 * model.expert_cache_bytes / model.expert_bytes;
      EXPECT_NEAR(bound.disk, model.expert_bytes / 16.0 * missing / 2e9, 1e-6);
    }
  }
  // About 3 billion parameters a token, of about 30 billion.
  const auto plan = PlanFor(Experts30b(), 32 * kGiB);
  EXPECT_NEAR(plan->models[0].matrix_elements, 3.2e9, 0.2e9);
  EXPECT_NEAR(plan->models[0].expert_bytes / 0.533, 28.4e9, 0.5e9);
}

TEST(PlanTest, WithLittleRoomMatricesStreamBesideTwoExperts) {
  const auto plan = PlanFor(Experts30b(), kGiB);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_LE(plan->host_used_bytes(), kGiB);
  EXPECT_GT(model.disk_bytes, 0u);
  EXPECT_EQ(model.expert_cache_bytes,
            2 * model.expert_bytes / static_cast<uint64_t>(Experts30b().spec.experts.total));
}

TEST(PlanTest, AdaptersTakeTheirShareOfTheBudget) {
  ModelUse use = {.file = &Glm9b(), .context_tokens = 2048, .batch = 4};
  const MemoryBudget budget = {.host_bytes = 3 * kGiB, .process_bytes = 32 << 20};
  const auto without = MakePlan({&use, 1}, budget);
  use.adapter_bytes = 512 << 20;
  const auto with = MakePlan({&use, 1}, budget);
  ASSERT_TRUE(without.ok() && with.ok());
  EXPECT_LE(with->host_used_bytes(), 3 * kGiB);
  EXPECT_LT(with->models[0].host_bytes, without->models[0].host_bytes - (500 << 20));
  // A sequence may go on in a page that a prefix began: one page more of each.
  EXPECT_EQ(KvPages(use), 4 * (2048 / kPageTokens + 1));
  EXPECT_GT(with->models[0].workspace_bytes, without->models[0].workspace_bytes);
}

TEST(PlanTest, WhatDoesNotFitStreams) {
  const auto plan = PlanFor(Glm9b(), 3 * kGiB);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_LE(plan->host_used_bytes(), 3 * kGiB);
  // Nothing is wasted: less than a block and the gaps of rounding are left.
  EXPECT_GT(plan->host_used_bytes(), 3 * kGiB - (64 << 20));
  EXPECT_EQ(model.host_bytes + model.disk_bytes, model.weight_bytes);
  EXPECT_GT(model.disk_bytes, kGiB);
  EXPECT_EQ(model.embedding_resident_bytes, 0u);
}

TEST(PlanTest, ResidentBlocksAreEvenlySpaced) {
  const auto plan = PlanFor(Glm9b(), 3 * kGiB);
  ASSERT_TRUE(plan.ok());
  const ModelPlan& model = plan->models[0];
  const double share = static_cast<double>(model.host_bytes) / model.weight_bytes;
  // In execution order, the resident part of every prefix keeps to the share within two blocks.
  double seen = 0, resident = 0, largest = 0;
  for (size_t t = 0; t < Glm9b().tensors.size(); ++t) {
    const StoredTensor& tensor = Glm9b().tensors[t];
    if (tensor.spec.use != TensorUse::kMatrix) continue;
    for (size_t b = 0; b < tensor.blocks.size(); ++b) {
      seen += tensor.blocks[b].bytes;
      largest = std::max<double>(largest, tensor.blocks[b].bytes);
      if (model.tiers[t][b] == Tier::kHost) resident += tensor.blocks[b].bytes;
      EXPECT_NEAR(resident, share * seen, 2 * largest);
    }
  }
}

TEST(PlanTest, SaysWhatWouldFit) {
  const auto plan = PlanFor(Glm9b(), 100 << 20);
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(plan.status().message());
  EXPECT_NE(message.find("--host-memory"), std::string::npos) << message;
  EXPECT_NE(message.find("MiB"), std::string::npos) << message;
}

TEST(PlanTest, TheSmallestBudgetItNamesIsEnough) {
  for (uint64_t host = 64 << 20; host < 2 * kGiB; host += 16 << 20) {
    const auto plan = PlanFor(Glm9b(), host);
    if (plan.ok()) {
      EXPECT_LE(plan->host_used_bytes(), host);
      EXPECT_TRUE(plan->models[0].ring_bytes > 0);
      EXPECT_FALSE(PlanFor(Glm9b(), host - (64 << 20)).ok());
      return;
    }
  }
  FAIL() << "no budget was enough";
}

TEST(PlanTest, AnyBudgetIsKept) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 100; ++round) {
    const uint64_t host = 256 * (1ull << 20) + random() % (12 * kGiB);
    const int64_t batch = 1 + random() % 64;
    const int64_t context = 16 + random() % 4096;
    const auto plan = PlanFor(Glm9b(), host, 0, batch, context);
    if (!plan.ok()) continue;
    const ModelPlan& model = plan->models[0];
    EXPECT_LE(plan->host_used_bytes(), host);
    EXPECT_EQ(model.host_bytes + model.disk_bytes, model.weight_bytes);
    uint64_t resident = 0;
    for (size_t t = 0; t < Glm9b().tensors.size(); ++t) {
      for (size_t b = 0; b < Glm9b().tensors[t].blocks.size(); ++b) {
        if (Glm9b().tensors[t].spec.use == TensorUse::kMatrix && model.tiers[t][b] == Tier::kHost) {
          resident += (Glm9b().tensors[t].blocks[b].bytes + 4095) / 4096 * 4096;
        }
      }
    }
    EXPECT_EQ(resident, model.host_bytes);
  }
}

TEST(PlanTest, TwoModelsShareOneBudget) {
  const ModelFile small = Lay("glm-large-chinese", {DType::kI8});
  const ModelUse uses[] = {{.file = &Glm9b()}, {.file = &small, .context_tokens = 512}};
  const auto plan = MakePlan(uses, {.host_bytes = 3 * kGiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->host_used_bytes(), 3 * kGiB);
  EXPECT_GT(plan->models[1].host_bytes + plan->models[1].ring_bytes, 0u);
}

TEST(PlanTest, ASmallModelStaysInMemoryBesideALargeOne) {
  const ModelFile small = Lay("glm-large-chinese", {DType::kI8});
  const ModelUse uses[] = {{.file = &Glm9b()}, {.file = &small, .context_tokens = 512}};
  const auto plan = MakePlan(uses, {.host_bytes = 4 * kGiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->host_used_bytes(), 4 * kGiB);
  EXPECT_EQ(plan->models[1].disk_bytes, 0u);
  EXPECT_GT(plan->models[0].disk_bytes, 0u);
  EXPECT_GT(plan->host_used_bytes(), 4 * kGiB - (256u << 20));  // nothing lies idle
}

TEST(PlanTest, BidirectionalContextsMakeLongSteps) {
  const ModelFile glm = Lay("glm-10b", {DType::kI4, 32});
  EXPECT_EQ(StepTokens({.file = &glm, .context_tokens = 1024, .batch = 2, .prompt_tokens = 16}),
            1024 + 2);
  EXPECT_EQ(StepTokens({.file = &Glm9b(), .context_tokens = 1024, .batch = 2, .prompt_tokens = 16}),
            16 + 2);
}

TEST(PlanTest, BoundIsTheSlowestLink) {
  const auto plan = PlanFor(Glm9b(), 3 * kGiB);
  ASSERT_TRUE(plan.ok());
  const Bound disk =
      EstimateBound(*plan, {.host_bandwidth = 30e9, .disk = 3e9, .compute = 1e13}, true);
  EXPECT_EQ(disk.link(), "disk");
  EXPECT_DOUBLE_EQ(disk.step_seconds(), plan->models[0].disk_bytes / 3e9);
  EXPECT_EQ(disk.streamed_bytes, plan->models[0].disk_bytes);
  const Bound memory =
      EstimateBound(*plan, {.host_bandwidth = 30e9, .disk = 300e9, .compute = 1e13}, true);
  EXPECT_EQ(memory.link(), "host_memory");
  const Bound compute =
      EstimateBound(*plan, {.host_bandwidth = 30e12, .disk = 300e12, .compute = 1e9}, true);
  EXPECT_EQ(compute.link(), "compute");
}

TEST(PlanTest, DeviceTakesWhatFitsAndTheCpuHelps) {
  const auto plan = PlanFor(Glm9b(), 16 * kGiB, 4 * kGiB);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->device_used_bytes(), 4 * kGiB);
  EXPECT_LE(plan->host_used_bytes(), 16 * kGiB);
  EXPECT_GT(plan->models[0].device_bytes, 2 * kGiB);
  const Rates rates = {.device_bandwidth = 1e12, .host_bandwidth = 80e9, .link = 25e9, .disk = 7e9};
  const Bound off = EstimateBound(*plan, rates, false);
  const Bound on = EstimateBound(*plan, rates, true);
  EXPECT_EQ(off.link(), "host_to_device");
  EXPECT_LT(on.step_seconds(), off.step_seconds());
  EXPECT_NEAR(on.host_memory, on.host_to_device, 1e-9);
}

// 40 layers of 64 MiB.
TEST(PlanTest, LayersOfTheCacheThatDoNotFitOnTheDeviceAreInRam) {
  ModelUse use = {.file = &Glm9b(), .context_tokens = 2048, .batch = 32};
  const auto with = [&](uint64_t device) {
    return MakePlan({&use, 1}, {.host_bytes = 16 * kGiB, .device_bytes = device});
  };
  const auto roomy = with(8 * kGiB);
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  const ModelPlan& all = roomy->models[0];
  EXPECT_EQ(all.kv_mapped_layers, 0);
  EXPECT_EQ(all.kv_bytes, 40 * 64 * kMiB);
  const uint64_t least = roomy->device_used_bytes() - all.device_bytes + kDeviceRingBytes;
  EXPECT_EQ(with(least)->models[0].kv_mapped_layers, 0);

  const auto tight = with(least - 3 * 64 * kMiB + 1);
  ASSERT_TRUE(tight.ok()) << tight.status();
  const ModelPlan& model = tight->models[0];
  EXPECT_EQ(model.kv_mapped_layers, 3);
  EXPECT_EQ(model.MappedPart(model.kv_bytes), 3 * 64 * kMiB);
  EXPECT_EQ(tight->device_used_bytes(), least - 3 * 64 * kMiB);
  EXPECT_LE(tight->host_used_bytes(), 16 * kGiB);
  const Rates rates = {.device_bandwidth = 1e12, .host_bandwidth = 75e9, .link = 25e9};
  const Bound bound = EstimateBound(*tight, rates, /*cpu_rows=*/false);
  EXPECT_DOUBLE_EQ(bound.host_to_device, (model.host_bytes + 3 * 64.0 * kMiB) / 25e9);
  const Bound split = EstimateBound(*tight, rates, /*cpu_rows=*/true);
  EXPECT_NEAR(split.host_memory, split.host_to_device, 1e-9);
  EXPECT_NEAR(split.host_to_device, (model.host_bytes + 2 * 3 * 64.0 * kMiB) / 100e9, 1e-9);

  EXPECT_EQ(with(least - 40 * 64 * kMiB)->models[0].kv_mapped_layers, 40);
  const auto none = with(least - 40 * 64 * kMiB - 1);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(none.status().message().find("on the device, but --device-memory is"),
            std::string::npos)
      << none.status();
  use.batch = 320;  // 25 GiB, which RAM has no room for
  EXPECT_NE(with(8 * kGiB).status().message().find("--host-memory"), std::string::npos);
}

TEST(PlanTest, RowsOfEveryMatrixAreTheHosts) {
  const ModelUse use = {.file = &Glm9b(), .host_rows = 0.75};
  const auto plan = MakePlan({&use, 1}, {.host_bytes = 16 * kGiB, .device_bytes = 4 * kGiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  // All but the head's.
  EXPECT_NEAR(model.host_rows_bytes, 0.75 * model.host_bytes, 0.1 * model.host_bytes);
  for (size_t t = 0; t < model.tiers.size(); ++t) {
    const TensorSpec& spec = Glm9b().tensors[t].spec;
    const auto count = [&](Tier tier) {
      return std::count(model.tiers[t].begin(), model.tiers[t].end(), tier);
    };
    if (spec.use != TensorUse::kMatrix) continue;
    const bool head = spec.rows() == Glm9b().spec.vocab_size;
    EXPECT_NEAR(count(Tier::kHostRows),
                head ? 0 : 0.75 * (count(Tier::kHostRows) + count(Tier::kHost)), 1)
        << spec.name;
  }
  const Rates rates = {.device_bandwidth = 1e12, .host_bandwidth = 75e9, .link = 25e9};
  const Bound bound = EstimateBound(*plan, rates, /*cpu_rows=*/false);
  EXPECT_DOUBLE_EQ(bound.host_memory, model.host_rows_bytes / 75e9);
  EXPECT_DOUBLE_EQ(bound.host_to_device, (model.host_bytes - model.host_rows_bytes) / 25e9);
}

TEST(PlanTest, ExpertsAreReadByTheHostBesideADevice) {
  const ModelFile file = Lay("glm-4.5-air", {DType::kI4, 32});
  const ModelUse use = {.file = &file, .context_tokens = 512};
  const auto plan = MakePlan({&use, 1}, {.host_bytes = 80 * kGiB, .device_bytes = 16 * kGiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_EQ(model.device_bytes, model.weight_bytes);
  const Rates rates = {.device_bandwidth = 1e12, .host_bandwidth = 50e9, .link = 25e9};
  const Bound bound = EstimateBound(*plan, rates, /*cpu_rows=*/false);
  // Whole layers, until there is no room for one more (and a ring, which needs room before).
  const uint64_t layer_bytes = model.expert_bytes / (file.spec.experts.total / 128);
  EXPECT_GT(model.device_experts, 0);
  EXPECT_EQ(model.device_experts % 128, 0);
  EXPECT_EQ(model.device_expert_bytes, model.device_experts / 128 * layer_bytes);
  EXPECT_LE(plan->device_used_bytes(), 16 * kGiB);
  EXPECT_GT(plan->device_used_bytes() + layer_bytes + kDeviceRingBytes, 16 * kGiB);
  EXPECT_DOUBLE_EQ(bound.host_memory,
                   (model.expert_step_bytes - model.device_expert_step_bytes) / 50e9);
  EXPECT_DOUBLE_EQ(
      bound.device_memory,
      (model.device_bytes + model.device_expert_step_bytes + model.kv_read_bytes) / 1e12);
  EXPECT_EQ(bound.host_to_device, 0);
}

TEST(PlanTest, ADeviceWithRoomHasAllExperts) {
  const ModelFile file = Lay("glm-4.5-air", {DType::kI4, 32});
  const ModelUse use = {.file = &file, .context_tokens = 512};
  const auto plan = MakePlan({&use, 1}, {.host_bytes = 8 * kGiB, .device_bytes = 80 * kGiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_EQ(model.device_experts, file.spec.experts.total);
  EXPECT_EQ(model.device_expert_bytes, model.expert_bytes);
  EXPECT_EQ(model.expert_disk_bytes, 0);
  EXPECT_LE(plan->device_used_bytes(), 80 * kGiB);
  EXPECT_LE(plan->host_used_bytes(), 8 * kGiB);
}

}  // namespace
}  // namespace qianyi
