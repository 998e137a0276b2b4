// Adapters in the engine: many at once, and their coming and going.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/runtime/adapters/adapter_folders.h"
#include "tests/runtime/engine_setup.h"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

using testing::LoraFolder;
using testing::PrefixFolder;
using testing::TempFolder;

constexpr uint64_t kAdapterBytes = 8 << 20;

// Two with low-rank matrices, two with prefixes: one shorter than a page, one longer than one.
std::vector<NamedAdapter> WriteFour(const ModelFile& model, const TempFolder& temp) {
  LoraFolder{.targets = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}}.Write(
      model, temp / "wide");
  LoraFolder{.targets = {"q_proj", "v_proj"}, .rank = 7, .alpha = 20, .seed = 2}.Write(
      model, temp / "narrow");
  PrefixFolder{.slots = 5, .seed = 3}.Write(model, temp / "short");
  PrefixFolder{.slots = 37, .inner = 30, .seed = 4}.Write(model, temp / "long");
  std::vector<NamedAdapter> named;
  for (const char* name : {"wide", "narrow", "short", "long"}) named.push_back({name, temp / name});
  return named;
}

// Two requests for each adapter and two for the plain model; those of an adapter differ.
std::vector<GenerateRequest> TenRequests(Engine& engine) {
  std::vector<GenerateRequest> requests;
  for (const char* name : {"", "wide", "narrow", "short", "long"}) {
    for (int i : {0, 1}) {
      std::vector<int32_t> ids = PromptIds(i, 9 + 40 * i);
      if (engine.model().spec().bidirectional) ids[2] = 392;
      // Enough tokens that one differs: draws from similar weights mostly agree.
      requests.push_back(Request(engine, ids, 7 * i, 60));
      if (*name == 0) continue;
      auto adapter = engine.adapters().Find(name);
      EXPECT_TRUE(adapter.ok()) << adapter.status();
      requests.back().adapter = *adapter;
    }
  }
  return requests;
}

class AdapterEngineTest : public ::testing::TestWithParam<std::tuple<const char*, PackedFormat>> {};

TEST_P(AdapterEngineTest, SameTokensAloneTogetherAndStreamed) {
  const auto [config, format] = GetParam();
  const TempFolder temp;
  const std::vector<NamedAdapter> four = WriteFour(Lay(config, format), temp);
  EngineSetup setup{.config = config, .format = format, .adapter_bytes = kAdapterBytes};
  std::vector<Outcome> alone;
  {
    setup.batch = 1;
    auto engine = Open(setup);
    ASSERT_TRUE(engine->adapters().LoadAll(four).ok());
    for (GenerateRequest& request : TenRequests(*engine)) {
      alone.push_back(Generate(*engine, {std::move(request)})[0]);
      ASSERT_TRUE(alone.back().status.ok()) << alone.back().status;
    }
  }
  // Each adapter says something of its own, where tokens are drawn.
  for (size_t i = 1; i < alone.size(); i += 2) {
    for (size_t j = 1; j < i; j += 2) EXPECT_NE(alone[i].blanks, alone[j].blanks) << i << " " << j;
  }
  for (const bool streamed : {false, true}) {
    for (const int64_t step_tokens : {11, 512}) {
      setup.batch = step_tokens == 11 ? 8 : 17;
      setup.step_tokens = step_tokens;
      setup.streamed = streamed;
      setup.threads = streamed ? 3 : 2;
      const bool guesses = streamed && step_tokens == 512;
      setup.guesses = setup.branches = guesses ? 40 : 0;  // of a draft model without adapters
      if (guesses) setup.draft = PackedFormat{DType::kI4, 32};
      auto engine = Open(setup);
      ASSERT_TRUE(engine->adapters().LoadAll(four).ok());
      const std::vector<Outcome> together = Generate(*engine, TenRequests(*engine));
      EXPECT_EQ(engine->stats().branch_tokens > 20, guesses);
      for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_EQ(together[i].blanks, alone[i].blanks)
            << "request " << i << " streamed " << streamed << " step " << step_tokens;
      }
    }
  }
}

// The plain model does not feel that there are adapters.
TEST_P(AdapterEngineTest, ThePlainModelStaysAsItWas) {
  const auto [config, format] = GetParam();
  const TempFolder temp;
  auto without = Open({.config = config, .format = format});
  auto with = Open({.config = config, .format = format, .adapter_bytes = kAdapterBytes});
  ASSERT_TRUE(with->adapters().LoadAll(WriteFour(Lay(config, format), temp)).ok());
  std::vector<GenerateRequest> all = TenRequests(*with);
  const std::vector<Outcome> mixed = Generate(*with, all);
  all.resize(2);
  const std::vector<Outcome> plain = Generate(*without, std::move(all));
  for (int i : {0, 1}) EXPECT_EQ(mixed[i].blanks, plain[i].blanks);
}

INSTANTIATE_TEST_SUITE_P(
    All, AdapterEngineTest,
    ::testing::Combine(::testing::Values(kCausal, kBlanks),
                       ::testing::Values(PackedFormat{DType::kF32}, PackedFormat{DType::kF16},
                                         PackedFormat{DType::kBF16}, PackedFormat{DType::kI8},
                                         PackedFormat{DType::kI4, 32},
                                         PackedFormat{DType::kI4, 0})));

class AdapterLifeTest : public ::testing::Test {
 protected:
  AdapterLifeTest() {
    four_ = WriteFour(Lay(kCausal, {DType::kI4, 32}), temp_);
    engine_ = Open({.batch = 4, .adapter_bytes = kAdapterBytes});
  }
  AdapterSet& adapters() { return engine_->adapters(); }

  const TempFolder temp_;
  std::vector<NamedAdapter> four_;
  std::unique_ptr<Engine> engine_;
};

// Whole pages of a prefix are shared: requests take pages for what is their own only.
TEST_F(AdapterLifeTest, RequestsShareThePagesOfAPrefix) {
  ASSERT_TRUE(adapters().LoadAll(four_).ok());
  const uint64_t used = adapters().used_bytes();
  const auto prefix = (*adapters().Find("long"))->prefix();
  EXPECT_EQ(prefix.slots, 37);
  EXPECT_EQ(prefix.pages.size(), 3u);
  auto cache = KvCache::Create({.layers = 2, .heads = 1, .key_dim = 4, .value_dim = 4}, DType::kF32,
                               6, Cpu(), 3);
  ASSERT_TRUE(cache.ok());
  const KvPrefix shared{.pages = {6, 7, 8}, .slots = 37};
  std::vector<int32_t> a, b, c;
  ASSERT_TRUE((*cache)->ReserveAfter(shared, 11, &a));  // fills the page that is begun
  ASSERT_TRUE((*cache)->ReserveAfter(shared, 12, &b));  // one more than it has room for
  EXPECT_EQ(a.size(), 3u);
  EXPECT_EQ(b.size(), 4u);
  EXPECT_EQ((*cache)->free_pages(), 3);
  EXPECT_TRUE(a[0] == 6 && a[1] == 7 && b[0] == 6 && b[1] == 7);
  EXPECT_TRUE(a[2] < 6 && b[2] < 6 && a[2] != b[2]);
  EXPECT_FALSE((*cache)->ReserveAfter(shared, 44, &c));
  EXPECT_TRUE(c.empty());
  (*cache)->Release(&a);
  (*cache)->Release(&b);
  EXPECT_EQ((*cache)->free_pages(), 6);
  EXPECT_EQ(adapters().used_bytes(), used);
}

TEST_F(AdapterLifeTest, AnAdapterIsUnloadedWhileRequestsRunWithIt) {
  ASSERT_TRUE(adapters().LoadAll(four_).ok());
  for (const char* name : {"wide", "long"}) {
    auto adapter = *adapters().Find(name);
    GenerateRequest request = Request(*engine_, PromptIds(1, 20), 3, 150);
    request.adapter = adapter;
    const Outcome expected = Generate(*engine_, {request})[0];
    request.adapter = adapter;
    const uint64_t before = adapters().used_bytes(), bytes = adapter->bytes();
    ASSERT_GT(bytes, 0u);
    std::vector<std::shared_ptr<Sink>> sinks;
    for (int i = 0; i < 3; ++i) {
      sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), 0));
      ASSERT_TRUE(engine_->Submit(request, sinks.back()).ok());
    }
    ASSERT_TRUE(adapters().Unload(name).ok());
    EXPECT_FALSE(adapters().Find(name).ok());
    EXPECT_EQ(adapters().used_bytes(), before);  // it is held here, and by the requests
    request.adapter.reset();
    adapter.reset();
    for (auto& sink : sinks) {
      const Outcome outcome = Collect(*sink);
      EXPECT_TRUE(outcome.status.ok()) << outcome.status;
      EXPECT_EQ(outcome.blanks, expected.blanks);
    }
    // The last request gives its memory back as it ends; the sink closes a moment before.
    while (adapters().used_bytes() != before - bytes) std::this_thread::yield();
  }
}

// Loading and unloading many times takes no more each time, while other requests run.
TEST_F(AdapterLifeTest, MemoryIsBackWhereItWas) {
  ASSERT_TRUE(adapters().LoadAll(four_).ok());
  const uint64_t full = adapters().used_bytes();
  GenerateRequest request = Request(*engine_, PromptIds(1, 20), 3, 170);
  request.adapter = *adapters().Find("narrow");
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  ASSERT_TRUE(engine_->Submit(request, sink).ok());
  request.adapter.reset();
  for (int i = 0; i < 200; ++i) {
    for (const char* name : {"wide", "long"}) {
      ASSERT_TRUE(adapters().Unload(name).ok());
      const auto again = adapters().Load(name, temp_ / name);
      ASSERT_TRUE(again.ok()) << again.status();
    }
  }
  EXPECT_EQ(adapters().used_bytes(), full);
  EXPECT_TRUE(Collect(*sink).status.ok());
  for (const NamedAdapter& adapter : four_) ASSERT_TRUE(adapters().Unload(adapter.name).ok());
  while (adapters().used_bytes() != 0) std::this_thread::yield();
  EXPECT_TRUE(adapters().List().empty());
}

TEST_F(AdapterLifeTest, NamesAndMemoryAreBounded) {
  const auto code = [&](const std::string& name, const std::string& folder) {
    return adapters().Load(name, temp_ / folder).status().code();
  };
  for (const char* name : {"", "a:b", "a/b", "..", "a b"}) {
    EXPECT_EQ(code(name, "wide"), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(code(std::string(65, 'a'), "wide"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("wide", "nothing"), absl::StatusCode::kNotFound);
  EXPECT_EQ(code("wide", "wide"), absl::StatusCode::kOk);
  EXPECT_EQ(code("wide", "narrow"), absl::StatusCode::kAlreadyExists);
  for (int i = 1; i < kMaxAdapters; ++i) {
    ASSERT_EQ(code(absl::StrCat("s", i), "short"), absl::StatusCode::kOk) << i;
  }
  EXPECT_EQ(code("one-more", "short"), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(adapters().Unload("wide").ok());
  EXPECT_EQ(code("one-more", "short"), absl::StatusCode::kOk);

  auto none = Open({.batch = 2});
  const auto refused = none->adapters().Load("wide", temp_ / "wide").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("--adapter-memory"), absl::string_view::npos) << refused;
}

// A full context fits behind a prefix that begins a page.
TEST_F(AdapterLifeTest, AFullContextFitsBehindAPrefix) {
  auto one = Open({.batch = 1, .adapter_bytes = kAdapterBytes});
  ASSERT_TRUE(one->adapters().Load("long", temp_ / "long").ok());
  GenerateRequest request = Request(*one, PromptIds(1, 100), 1, 99);
  request.adapter = *one->adapters().Find("long");
  EXPECT_EQ(Generate(*one, {request})[0].blanks[0].size(), 99u);
}

}  // namespace
}  // namespace qianyi
