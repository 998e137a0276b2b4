// Models with experts: what a token gets does not depend on where experts were, or on who else
// wanted them.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"
#include "runtime/storage/convert.h"
#include "runtime/storage/synth.h"
#include "tests/runtime/engine_setup.h"
#include "tests/runtime/faulty_reader.h"
#include "tests/support/paths.h"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

constexpr int kRequests = 9;

std::vector<GenerateRequest> Requests(const Engine& engine) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < kRequests; ++i) {
    requests.push_back(Request(engine, PromptIds(i, 3 + 7 * i % 40), i));
  }
  return requests;
}

class ExpertEngineTest : public ::testing::TestWithParam<PackedFormat> {};

TEST_P(ExpertEngineTest, SameTokensAloneTogetherResidentStreamedAndOnAnyThreads) {
  EngineSetup plain{.config = kExperts, .format = GetParam()};
  std::vector<Outcome> together;
  {
    auto engine = Open(plain);
    EXPECT_EQ(engine->plan().models[0].expert_cache_bytes, engine->plan().models[0].expert_bytes);
    together = Generate(*engine, Requests(*engine));
    const ExpertStats stats = engine->weight_stats().experts;
    // Each expert was read at most once.
    EXPECT_LE(stats.read_bytes, engine->plan().models[0].expert_bytes);
    EXPECT_GT(stats.hits, 0u);
  }
  for (const Outcome& outcome : together) {
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.blanks[0].size(), 12u);
  }
  EXPECT_NE(together[1].blanks, together[2].blanks);
  const auto setup = [&](int64_t batch, int64_t step_tokens, int threads, int in_memory) {
    return EngineSetup{.config = kExperts,
                       .format = GetParam(),
                       .batch = batch,
                       .step_tokens = step_tokens,
                       .threads = threads,
                       .streamed = in_memory > 0,
                       .experts_in_memory = in_memory};
  };
  // All in memory; two at a time; a few, or most of them cached.
  for (const EngineSetup& variant :
       {setup(1, 512, 2, 0), setup(9, 512, 1, 2), setup(1, 512, 2, 2), setup(3, 7, 3, 5),
        setup(9, 50, 2, 20), setup(1, 1, 1, 40), setup(2, 512, 2, 40)}) {
    auto engine = Open(variant);
    const std::vector<Outcome> again = Generate(*engine, Requests(*engine));
    for (int i = 0; i < kRequests; ++i) {
      EXPECT_EQ(again[i].blanks, together[i].blanks)
          << "request " << i << " batch " << variant.batch << " threads " << variant.threads
          << " experts in memory " << (variant.streamed ? variant.experts_in_memory : 48);
    }
    const ExpertStats stats = engine->weight_stats().experts;
    EXPECT_EQ(engine->weight_stats().read_bytes >= stats.read_bytes, true);
    if (!variant.streamed) continue;
    // What was read is what was missing, and at most a little ahead of need.
    EXPECT_GE(stats.read_bytes, stats.used_bytes - stats.hit_bytes);
    EXPECT_LE(stats.read_bytes, 1.1 * (stats.used_bytes - stats.hit_bytes));
  }
}

std::string FormatName(const ::testing::TestParamInfo<PackedFormat>& of) {
  static const char* const kNames[] = {"f32", "f16", "bf16", "int8", "int4"};
  return kNames[static_cast<int>(of.param.dtype)];
}

INSTANTIATE_TEST_SUITE_P(Formats, ExpertEngineTest,
                         ::testing::Values(PackedFormat{DType::kF32}, PackedFormat{DType::kBF16},
                                           PackedFormat{DType::kI8}, PackedFormat{DType::kI4, 32}),
                         FormatName);

TEST(ExpertEngineFaultTest, AFailingDiskFailsTheRequestsAndServesTheNext) {
  const ModelFile file = Lay(kExperts, {DType::kI4, 32});
  const int tensor = file.Find("model.layers.2.mlp.experts.5.up_proj.weight");
  ASSERT_GE(tensor, 0);
  // All experts of the layer, so that every request meets one.
  const uint64_t begin =
      file.tensors[file.Find("model.layers.2.mlp.experts.0.gate_proj.weight")].blocks[0].offset;
  const uint64_t end =
      file.tensors[file.Find("model.layers.2.mlp.experts.15.down_proj.weight")].blocks[0].offset;
  std::atomic<bool> broken = false;
  const ReaderFactory readers = [&](int) -> absl::StatusOr<std::unique_ptr<Reader>> {
    auto reader = OpenSynthReader(file, {});
    if (!reader.ok()) return reader.status();
    return std::make_unique<FaultyReader>(*std::move(reader), [&](uint64_t offset) {
      Fault fault;
      if (broken && offset >= begin && offset <= end) fault.status = absl::DataLossError("EIO");
      return fault;
    });
  };
  const EngineSetup setup{.config = kExperts, .batch = 2, .streamed = true, .experts_in_memory = 5};
  auto engine = Open(setup, readers);
  const Outcome good = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
  ASSERT_TRUE(good.status.ok()) << good.status;
  broken = true;
  const Outcome bad = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
  EXPECT_EQ(bad.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(bad.status.message().find("of model.layers.2.mlp.experts."), absl::string_view::npos)
      << bad.status;
  broken = false;
  const Outcome again = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.blanks, good.blanks);
}

TEST(ExpertEngineFaultTest, ADamagedExpertIsNamed) {
  const testing::TempFolder temp;
  const std::string folder = temp / "model";
  auto spec = DescribeModel(kExperts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_TRUE(WriteSynth(*spec, {DType::kI8}, 3, folder, {}).ok());
  auto file = ModelFile::Open(folder);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const StoredTensor& tensor : file->tensors) {  // any expert that is met says so
    if (tensor.spec.use != TensorUse::kExpert) continue;
    std::FILE* out = std::fopen(file->files[0].c_str(), "r+b");
    ASSERT_NE(out, nullptr);
    std::fseek(out, static_cast<long>(tensor.blocks[0].offset) + 100, SEEK_SET);
    std::fputc(0x5a, out);
    std::fputc(0xa5, out);
    std::fclose(out);
  }
  LoadOptions options;
  options.context_tokens = 64;
  options.host_bytes = 4ull << 30;
  auto loaded = LoadedModel::Open(*std::move(file), options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  Engine engine(*std::move(loaded), {.queue = 4});
  const Outcome outcome = Generate(engine, {Request(engine, PromptIds(1, 9), 0)})[0];
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(outcome.status.message().find("does not match its checksum"), absl::string_view::npos);
  EXPECT_NE(outcome.status.message().find(".mlp.experts."), absl::string_view::npos)
      << outcome.status;
}

// An error names the field, and what it may be.
TEST(Glm4MoeConfigTest, NamesWhatIsWrong) {
  const nlohmann::json good = nlohmann::json::parse(kExperts);
  const auto refused = [](nlohmann::json config, const char* field, const nlohmann::json& value,
                          const char* word) {
    config[field] = value;
    const auto spec = DescribeModel(config.dump());
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << field << value;
    EXPECT_NE(spec.status().message().find(word), absl::string_view::npos) << spec.status();
  };
  refused(good, "n_routed_experts", 0, "n_routed_experts");
  refused(good, "n_routed_experts", nullptr, "n_routed_experts is missing");
  refused(good, "num_experts_per_tok", 17, "num_experts_per_tok must not exceed");
  refused(good, "n_group", 5, "multiple of n_group");
  refused(good, "n_group", 16, "two experts or more");
  refused(good, "topk_group", 5, "topk_group must not exceed");
  nlohmann::json many = good;
  many["num_hidden_layers"] = 1024;
  refused(many, "n_routed_experts", 256, "must not exceed 65536");
  refused(good, "num_key_value_heads", 3, "multiple of num_key_value_heads");
  refused(good, "hidden_act", "gelu", "hidden_act");
  refused(good, "rope_parameters", {{"rope_type", "yarn"}}, "rope_type");
  refused(good, "rope_scaling", {{"type", "linear"}}, "rope_scaling");
  refused(good, "partial_rotary_factor", 0.01, "partial_rotary_factor");
}

// What a later version drafts with comes along, and takes no memory until then.
TEST(DraftLayerTest, IsStoredWhereThereIsOneAndNotLoaded) {
  const testing::TempFolder temp;
  const std::string fixtures = qianyi::testing::FixturePath();
  ASSERT_TRUE(Convert({.source = fixtures + "/glm4-moe",
                       .destination = temp / "with",
                       .format = {DType::kI4, 32}},
                      {})
                  .ok());
  auto with = ModelFile::Open(temp / "with");
  ASSERT_TRUE(with.ok()) << with.status();
  for (const char* name : {"eh_proj", "enorm", "shared_head.head", "mlp.experts.7.down_proj",
                           "mlp.gate", "self_attn.q_norm"}) {
    const int tensor = with->Find("model.layers.3." + std::string(name) + ".weight");
    ASSERT_GE(tensor, 0) << name;
    EXPECT_TRUE(with->tensors[tensor].spec.kept) << name;
  }
  EXPECT_EQ(with->spec.experts.total, 16);

  testing::CopyFolder(fixtures + "/glm4-moe-groups", temp / "source");
  nlohmann::json config = nlohmann::json::parse(testing::ReadText(temp / "source/config.json"));
  config["num_nextn_predict_layers"] = 1;
  testing::WriteText(temp / "source/config.json", config.dump());
  ASSERT_TRUE(Convert({.source = temp / "source", .destination = temp / "without"}, {}).ok());
  auto without = ModelFile::Open(temp / "without");
  ASSERT_TRUE(without.ok()) << without.status();
  for (const StoredTensor& tensor : without->tensors) EXPECT_FALSE(tensor.spec.kept);

  LoadOptions options;
  options.context_tokens = 64;
  options.host_bytes = 1ull << 30;
  auto loaded = LoadedModel::Open(*with, options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const ModelPlan& plan = (*loaded)->plan().models[0];
  uint64_t used = 0, kept = 0;
  for (const StoredTensor& tensor : with->tensors) {
    if (tensor.spec.use == TensorUse::kConstant) continue;
    for (const Block& block : tensor.blocks) {
      (tensor.spec.kept ? kept : used) += (block.bytes + 4095) / 4096 * 4096;
    }
  }
  EXPECT_GT(kept, 0u);
  EXPECT_EQ(plan.weight_bytes + plan.embedding_bytes + plan.expert_bytes, used);
}

}  // namespace
}  // namespace qianyi
