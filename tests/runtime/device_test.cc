// Models on a device with memory of its own: the emulated one, which no host code can touch and
// which does its work as late as it may (kernels/cuda/emulation.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulated.h"
#include "kernels/cuda/emulation.h"
#include "runtime/engine.h"
#include "runtime/measure.h"
#include "runtime/storage/convert.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/verify.h"
#include "tests/runtime/engine_setup.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

const Backend& Device() {
  cuda::emulation::SetStrictMemory(true);
  return cuda::EmulatedCuda();
}

std::string Fixture(const std::string& name) { return qianyi::testing::FixturePath(name); }

// `only` as of `verify --only`.
void ExpectVerified(const std::string& name, uint64_t device_bytes, const char* only = "") {
  VerifyReport report(only);
  report.RunOn({&Device(), device_bytes});
  const absl::Status status = VerifyFolder(Fixture(name), report);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(report.lines().size(), 0u);
  for (const VerifyLine& line : report.lines()) {
    EXPECT_EQ(line.result, VerifyLine::Result::kOk)
        << line.name << " differs by " << line.difference << " " << line.note;
  }
  EXPECT_EQ(cuda::emulation::AllocatedBytes(), 0u) << "all memory is given back";
}

// The least that a model can do with while its cache is on the device: all of its weights stream.
uint64_t LeastDeviceBytes(const ModelFile& file, const LoadOptions& options) {
  const ModelUse use = UseOf(file, options);
  const auto plan = MakePlan({&use, 1}, HostBudget(options));
  EXPECT_TRUE(plan.ok()) << plan.status();
  const ModelPlan& model = plan->models[0];
  EXPECT_EQ(model.device_bytes, model.weight_bytes);
  return plan->device_used_bytes() - model.device_bytes - model.device_expert_bytes -
         model.device_expert_workspace_bytes + kDeviceRingBytes;
}

uint64_t LeastDeviceBytes(const std::string& name) {
  const TemporaryFolder temporary;
  const std::string converted = temporary.path() + "/model";
  EXPECT_TRUE(
      Convert({.source = Fixture(name), .destination = converted, .format = {DType::kF32}}, {})
          .ok());
  const auto file = ModelFile::Open(converted);
  const auto cases = ReadJson(Fixture(name) + "/cases.json");
  auto options = RoomFor((*cases)["cases"]);
  options->backend = &Device();
  return LeastDeviceBytes(*file, *options);
}

// Folders whose kind does not run on a device: experts are the host's.
bool IsOfTheHost(const nlohmann::json& config) {
  const std::string kind = config["fixture"];
  return kind == "fastmoe-gates";
}

// Folders below tests/fixtures whose kind has a model; some hold one folder per model family.
std::vector<std::string> FoldersWithModels() {
  std::vector<std::string> folders;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(qianyi::testing::FixturePath())) {
    if (entry.path().filename() != "config.json") continue;
    const std::string folder =
        std::filesystem::relative(entry.path().parent_path(), qianyi::testing::FixturePath());
    const auto config = ReadJson(entry.path());
    if (!config.ok() || !config->contains("fixture") || folder.starts_with("tokenizer")) continue;
    if (!IsOfTheHost(*config)) folders.push_back(folder);
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

class DeviceFixtureTest : public ::testing::TestWithParam<std::string> {};

// Of pictures not those with thousands of tokens, for which the emulation takes many minutes.
TEST_P(DeviceFixtureTest, IsReproduced) {
  std::vector<const char*> parts = {""};
  if (GetParam().starts_with("cogview")) {
    parts = {"forward.", "ln_global_max.", "incremental.", "text_greedy.", "sparse_model"};
  }
  for (const char* part : parts) {
    SCOPED_TRACE(part);
    ExpectVerified(GetParam(), 0, part);
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, DeviceFixtureTest, ::testing::ValuesIn(FoldersWithModels()),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) c = std::isalnum(c) ? c : '_';
                           return name;
                         });

TEST(DeviceTest, FoldersAreFound) {
  const std::vector<std::string> folders = FoldersWithModels();
  for (const char* name : {"glm-blocklm", "chatglm2", "lora", "ptuning-v2/chatglm2"}) {
    EXPECT_TRUE(std::find(folders.begin(), folders.end(), name) != folders.end()) << name;
  }
}

TEST(DeviceTest, FixturesAreReproducedWhenTheirWeightsStream) {
  for (const char* name : {"glm-blocklm", "chatglm2"}) {
    SCOPED_TRACE(name);
    ExpectVerified(name, LeastDeviceBytes(name));
  }
}

// Where the weights of a model are; the rest of the device's share is in host memory, or on disk
// as far as that has no room. Of what is in host memory the CPU computes `host_rows`. Of the
// cache's layers, `mapped_layers` are in host memory; of those that kExperts has, the experts of
// `expert_layers` are on the device.
struct Residency {
  double on_device;
  bool from_disk;
  double host_rows = 0;
  int mapped_layers = 0;
  int expert_layers = 0;
};
constexpr int kExpertLayers = 3, kExpertsOfALayer = 16;

int Layers(const ModelPlan& plan) { return plan.use.file->spec.kv.layers; }

// Of a small model, in `batch` places.
LoadOptions Small(const Backend* backend, int64_t batch) {
  LoadOptions options;
  options.backend = backend;
  options.context_tokens = 60;
  options.batch = batch;
  options.host_bytes = 4ull << 30;
  options.process_bytes = 1 << 20;
  return options;
}

// Tokens of two sequences that share their steps.
std::vector<std::vector<int32_t>> TokensWith(PackedFormat format, Residency residency,
                                             const char* config = kCausal) {
  ModelFile file = Lay(config, format);
  LoadOptions options = Small(&Device(), 2);
  options.prompt_tokens = 40;
  options.host_rows = residency.host_rows;
  const ModelUse use = UseOf(file, options);
  const auto roomy = MakePlan({&use, 1}, HostBudget(options));
  EXPECT_TRUE(roomy.ok()) << roomy.status();
  const ModelPlan& model = roomy->models[0];
  options.device_bytes = LeastDeviceBytes(file, options) +
                         static_cast<uint64_t>(residency.on_device * model.weight_bytes);
  if (residency.expert_layers > 0) {
    options.device_bytes += model.device_expert_workspace_bytes +
                            model.expert_bytes / kExpertLayers * residency.expert_layers;
  }
  options.device_bytes -= residency.mapped_layers * (model.kv_bytes / Layers(model));
  if (residency.from_disk) {
    options.host_bytes =
        roomy->host_used_bytes() - model.embedding_resident_bytes + model.weight_bytes * 2 / 3;
    options.host_bytes -= model.expert_cache_bytes;
  }
  auto loaded = LoadedModel::Open(std::move(file), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  const ModelPlan& made = (*loaded)->plan().models[0];
  EXPECT_EQ(made.kv_mapped_layers, residency.mapped_layers);
  EXPECT_EQ(made.device_experts, residency.expert_layers * kExpertsOfALayer);
  EXPECT_EQ(cuda::emulation::MappedBytes(), made.MappedPart(made.kv_bytes));
  EXPECT_EQ(made.disk_bytes > 0, residency.from_disk);
  EXPECT_EQ(made.device_bytes < made.weight_bytes, residency.on_device < 1);
  EXPECT_NEAR(made.host_rows_bytes, residency.host_rows * made.host_bytes, 0.5 * made.host_bytes);
  EXPECT_EQ(made.host_rows_bytes > 0, residency.host_rows > 0);
  Engine engine(*std::move(loaded), {.queue = 8});
  std::vector<std::vector<int32_t>> tokens;
  for (Outcome& outcome : Generate(engine, {Request(engine, PromptIds(0, 9), 7, 3),
                                            Request(engine, PromptIds(1, 5), 8, 3)})) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    tokens.push_back(outcome.blanks.at(0));
  }
  return tokens;
}

TEST(DeviceTest, WhereWeightsAreChangesNoToken) {
  for (PackedFormat format : {PackedFormat{DType::kI8}, PackedFormat{DType::kI4, 32}}) {
    const auto resident = TokensWith(format, {1, false});
    EXPECT_FALSE(resident.at(0).empty());
    EXPECT_EQ(TokensWith(format, {0.5, false}), resident);
    EXPECT_EQ(TokensWith(format, {0, false}), resident);
    EXPECT_EQ(TokensWith(format, {0, true}), resident);
  }
}

TEST(DeviceTest, WhereTheCacheIsChangesNoToken) {
  for (const char* config : {kCausal, kGlm130b, kLatent}) {
    const auto resident = TokensWith({DType::kI8}, {1, false}, config);
    EXPECT_FALSE(resident.at(0).empty());
    const int layers = Lay(config, {DType::kI8}).spec.kv.layers;
    for (const int mapped : {1, layers}) {
      EXPECT_EQ(TokensWith({DType::kI8}, {0, false, 0, mapped}, config), resident) << mapped;
      EXPECT_EQ(TokensWith({DType::kI8}, {0, true, 0, mapped}, config), resident) << mapped;
    }
  }
}

// Tokens of four sequences of different lengths, which begin and end at different times; how many
// steps were launched as graphs, and of how many graphs.
struct Launches {
  std::vector<std::vector<int32_t>> tokens;
  uint64_t captured = 0, launched = 0, steps = 0;
};
Launches LaunchesOf(const char* config, bool graphs, bool streamed = false) {
  LoadOptions options = Small(&Device(), 3);
  options.prompt_tokens = 8;
  if (streamed) options.device_bytes = LeastDeviceBytes(Lay(config, {DType::kI8}), options);
  options.graphs = graphs;
  auto loaded = LoadedModel::Open(Lay(config, {DType::kI8}), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  LoadedModel& model = **loaded;
  Engine engine(*std::move(loaded), {.queue = 8});
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(Request(engine, PromptIds(i, 5 + 4 * i), i, 18 + 3 * i));
  }
  Launches found;
  for (Outcome& outcome : Generate(engine, std::move(requests))) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    found.tokens.push_back(outcome.blanks.at(0));
  }
  found.steps = engine.stats().steps;
  if (const StepGraphs* made = model.pass().graphs()) {
    found.captured = made->captured();
    found.launched = made->launched();
  }
  return found;
}

// Page tables grow, sequences come and go: what a graph's kernels are given stays the same.
TEST(DeviceTest, StepsThatComeAgainAreGraphs) {
  for (const char* config : {kCausal, kBlanks, kGlm130b, kLatent, kExperts}) {
    const Launches with = LaunchesOf(config, true), without = LaunchesOf(config, false);
    EXPECT_FALSE(with.tokens.at(0).empty());
    EXPECT_EQ(with.tokens, without.tokens);
    EXPECT_EQ(without.launched, 0u);
    EXPECT_GT(with.launched, with.steps / 2) << with.steps;
    EXPECT_LE(with.captured, 8u) << with.launched;
  }
}

// What waits for the link or for the host goes kernel by kernel.
TEST(DeviceTest, StepsOfWeightsThatStreamAreNoGraphs) {
  for (const char* config : {kCausal, kExperts}) {
    EXPECT_EQ(LaunchesOf(config, true, /*streamed=*/true).launched, 0u);
  }
}

// Who wants logprobs gets logits, of which the host draws.
TEST(DeviceTest, TokensAreTheSameDrawnThereOrHere) {
  LoadOptions options = Small(&Device(), 4);
  options.guesses = 8;
  options.branches = 12;
  auto loaded = LoadedModel::Open(Lay(kCausal, {DType::kI8}), options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE((*loaded)->draws_tokens());
  auto draft = LoadedModel::Open(Lay(kCausal, {DType::kI4, 32}), Drafter::OptionsFor(options));
  ASSERT_TRUE(draft.ok()) << draft.status();
  Engine engine(*std::move(loaded), {.queue = 8, .always_guesses = true},
                {.drafter = std::make_unique<Drafter>(*std::move(draft), /*always=*/true)});
  const auto tokens = [&](bool on_host) {
    std::vector<GenerateRequest> requests;
    for (uint64_t i = 0; i < 4; ++i) {
      GenerateRequest& request =
          requests.emplace_back(Request(engine, PromptIds(static_cast<int>(i), 9), i, 16));
      request.sampling.top_p = i == 2 ? 0.7f : 1.0f;
      request.sampling.top_k = i == 3 ? 5 : 0;
      request.sampling.report_logprob = on_host;
    }
    std::vector<std::vector<int32_t>> found;
    for (Outcome& outcome : Generate(engine, std::move(requests))) {
      EXPECT_TRUE(outcome.status.ok()) << outcome.status;
      found.push_back(outcome.blanks.at(0));
    }
    return found;
  };
  const auto drawn = tokens(false);
  EXPECT_FALSE(drawn.at(0).empty());
  EXPECT_EQ(tokens(true), drawn);
  EXPECT_GT(engine.stats().guessed_tokens, 0u);  // several tokens of a sequence in a step
  EXPECT_GT(engine.stats().accepted_branch_tokens, 0u);
}

// Integers are summed exactly wherever it happens, so the CPU's rows have the device's bits.
TEST(DeviceTest, RowsThatTheHostComputesChangeNoToken) {
  for (const char* config : {kCausal, kGlm130b}) {
    for (PackedFormat format : {PackedFormat{DType::kI8}, PackedFormat{DType::kI4, 32}}) {
      const auto resident = TokensWith(format, {1, false}, config);
      EXPECT_FALSE(resident.at(0).empty());
      EXPECT_EQ(TokensWith(format, {0.5, false, 0.6}, config), resident);
      EXPECT_EQ(TokensWith(format, {0, false, 1}, config), resident);
      EXPECT_EQ(TokensWith(format, {0, true, 0.6}, config), resident);
    }
  }
}

TEST(DeviceTest, RowsThatTheHostComputesAreOfAnyFormat) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const auto tokens = TokensWith({dtype}, {0.3, false, 0.5});
    EXPECT_FALSE(tokens.at(0).empty());
    EXPECT_EQ(TokensWith({dtype}, {0.3, false, 0.5}), tokens);
  }
}

TEST(DeviceTest, ExpertsAreComputedByTheHost) {
  for (PackedFormat format : {PackedFormat{DType::kI8}, PackedFormat{DType::kI4, 32}}) {
    const auto resident = TokensWith(format, {1, false}, kExperts);
    EXPECT_FALSE(resident.at(0).empty());
    EXPECT_EQ(TokensWith(format, {0.5, false}, kExperts), resident);
    EXPECT_EQ(TokensWith(format, {0, true}, kExperts), resident);
    EXPECT_EQ(TokensWith(format, {0.5, false, 0.6}, kExperts), resident);
  }
}

// All of them, or those of some layers.
TEST(DeviceTest, ExpertsMayBeOnTheDevice) {
  for (PackedFormat format : {PackedFormat{DType::kI8}, PackedFormat{DType::kI4, 32}}) {
    const auto of_host = TokensWith(format, {1, false}, kExperts);
    EXPECT_FALSE(of_host.at(0).empty());
    for (const int layers : {1, kExpertLayers}) {
      EXPECT_EQ(TokensWith(format, {1, false, 0, 0, layers}, kExperts), of_host) << layers;
    }
  }
}

TEST(DeviceTest, ExpertsOnTheDeviceAreOfAnyFormat) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const auto tokens = TokensWith({dtype}, {1, false, 0, 0, kExpertLayers}, kExperts);
    EXPECT_FALSE(tokens.at(0).empty());
    EXPECT_EQ(TokensWith({dtype}, {1, false, 0, 0, kExpertLayers}, kExperts), tokens);
  }
}

TEST(DeviceTest, LatentAttentionRunsOnADevice) {
  const auto resident = TokensWith({DType::kI8}, {1, false}, kLatent);
  EXPECT_FALSE(resident.at(0).empty());
  EXPECT_EQ(TokensWith({DType::kI8}, {0, false}, kLatent), resident);
  EXPECT_EQ(TokensWith({DType::kI8}, {0, false, 1}, kLatent), resident);
}

// The mean of a prompt's final hidden states, in steps of a few tokens.
std::vector<float> MeanOn(const Backend* backend) {
  LoadOptions options = Small(backend, 2);
  options.prompt_tokens = 7;
  auto loaded = LoadedModel::Open(Lay(kCausal, {DType::kF32}), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  Engine engine(*std::move(loaded), {.queue = 8});
  auto sink = std::make_shared<Sink>(Sink::Mean{engine.model().spec().hidden_size});
  EXPECT_TRUE(engine.Submit(Request(engine, PromptIds(0, 19), 1, 1), sink).ok());
  EXPECT_EQ(sink->Wait(), nullptr);
  EXPECT_TRUE(sink->status().ok()) << sink->status();
  return {sink->mean().begin(), sink->mean().end()};
}

TEST(DeviceTest, HiddenStatesComeBack) {
  const std::vector<float> host = MeanOn(nullptr), device = MeanOn(&Device());
  ASSERT_EQ(host.size(), device.size());
  for (size_t i = 0; i < host.size(); ++i) EXPECT_NEAR(host[i], device[i], 1e-4) << i;
}

TEST(DeviceTest, TheShareOfTheHostIsMeasured) {
  EXPECT_GT(MeasureLink(Device(), LinkDirection::kToDevice), 0);
  const double alone = MeasureHostRows(Device(), {DType::kI4, 32}, 1, 2);
  EXPECT_GT(alone, 0);
  EXPECT_LT(alone, 1);
}

TEST(DeviceTest, ALibraryIsMeasuredAndItsRoomIsPlannedFor) {
  const Backend& library = cuda::EmulatedFastCuda("/nowhere/libcublasLt.so");
  const LibraryGain gain = MeasureLibrary(Device(), library, {DType::kI8}, 64);
  EXPECT_GT(gain.times, 0);
  library.use_library_from(128);
  LoadOptions options;
  options.backend = &Device();
  EXPECT_EQ(HostBudget(options).library_bytes, 0u);
  options.backend = &library;
  EXPECT_EQ(HostBudget(options).library_bytes, library.library_bytes);
  EXPECT_GT(library.library_bytes, 160u << 20);
  const ModelFile file = Lay(kCausal, {DType::kI8});
  const ModelUse use = UseOf(file, options);
  MemoryBudget budget = HostBudget(options);
  const auto with = MakePlan({&use, 1}, budget);
  budget.library_bytes = 0;
  const auto without = MakePlan({&use, 1}, budget);
  ASSERT_TRUE(with.ok() && without.ok()) << with.status() << without.status();
  EXPECT_EQ(with->device_used_bytes(), without->device_used_bytes() + library.library_bytes);
}

TEST(DeviceTest, ItsMemoryAndArithmeticAreMeasured) {
  EXPECT_GT(MeasureDeviceBandwidth(Device(), 64), 0);
  EXPECT_GT(MeasureDeviceCompute(Device(), {DType::kI4, 32}, 64), 0);
}

TEST(DeviceTest, TooLittleMemoryIsAnErrorThatSaysWhatWouldDo) {
  ModelFile file = Lay(kCausal, {DType::kI8});
  LoadOptions options;
  options.backend = &Device();
  options.device_bytes = 100 << 20;
  const auto loaded = LoadedModel::Open(std::move(file), options);
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(loaded.status().message().find("--device-memory"), std::string::npos)
      << loaded.status();
}

}  // namespace
}  // namespace qianyi
