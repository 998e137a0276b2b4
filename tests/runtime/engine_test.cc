#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/models/registry.h"
#include "runtime/storage/synth.h"
#include "tests/runtime/engine_setup.h"
#include "tests/runtime/faulty_reader.h"

namespace qianyi {
namespace {

std::vector<GenerateRequest> SeventeenRequests(const Engine& engine) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 17; ++i) {
    requests.push_back(Request(engine, SomePrompt(engine, i), i));
  }
  return requests;
}

class EngineFamilyTest
    : public ::testing::TestWithParam<std::tuple<const char*, PackedFormat, std::optional<DType>>> {
};

// The promise: tokens depend on the request alone.
TEST_P(EngineFamilyTest, SameTokensAloneTogetherSplitStreamedAndOnAnyThreads) {
  const auto [config, format, kv_dtype] = GetParam();
  const EngineSetup plain{.config = config, .format = format, .kv_dtype = kv_dtype};
  std::vector<Outcome> together;
  {
    auto engine = Open(plain);
    together = Generate(*engine, SeventeenRequests(*engine));
  }
  for (const Outcome& outcome : together) {
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.blanks[0].size(), 12u);
  }
  EXPECT_NE(together[1].blanks, together[2].blanks);
  const EngineSetup variants[] = {
      {.config = config, .format = format, .batch = 1},
      {.config = config, .format = format, .batch = 3, .step_tokens = 7},
      {.config = config, .format = format, .batch = 17, .streamed = true},
      {.config = config, .format = format, .batch = 2, .step_tokens = 1, .threads = 1},
      {.config = config,
       .format = format,
       .batch = 17,
       .step_tokens = 50,
       .threads = 3,
       .streamed = true},
  };
  for (EngineSetup setup : variants) {
    setup.kv_dtype = kv_dtype;
    auto engine = Open(setup);
    const std::vector<Outcome> again = Generate(*engine, SeventeenRequests(*engine));
    for (int i = 0; i < 17; ++i) {
      EXPECT_EQ(again[i].blanks, together[i].blanks)
          << "request " << i << " batch " << setup.batch << " step " << setup.step_tokens
          << " streamed " << setup.streamed << " threads " << setup.threads;
    }
  }
}

std::string FamilyName(const ::testing::TestParamInfo<EngineFamilyTest::ParamType>& test) {
  static const char* const kNames[] = {"f32", "f16", "bf16", "int8", "int4"};
  const PackedFormat format = std::get<1>(test.param);
  const std::pair<const char*, const char*> families[] = {
      {kCausal, "chatglm2_"}, {kBlanks, "glm_"}, {kLatent, "latent_"}, {kExperts, "experts_"}};
  std::string name;
  for (const auto& [config, family] : families) {
    if (std::get<0>(test.param) == config) name = family;
  }
  if (const std::optional<DType> cache = std::get<2>(test.param)) {
    name += std::string(kNames[static_cast<int>(*cache)]) + "_cache_";
  }
  return name + kNames[static_cast<int>(format.dtype)] + "_" + std::to_string(format.group);
}

INSTANTIATE_TEST_SUITE_P(
    All, EngineFamilyTest,
    ::testing::Combine(::testing::Values(kCausal, kBlanks, kLatent),
                       ::testing::Values(PackedFormat{DType::kF32}, PackedFormat{DType::kF16},
                                         PackedFormat{DType::kBF16}, PackedFormat{DType::kI8},
                                         PackedFormat{DType::kI4, 32}, PackedFormat{DType::kI4, 0}),
                       ::testing::Values(std::nullopt)),
    FamilyName);
INSTANTIATE_TEST_SUITE_P(Int8Cache, EngineFamilyTest,
                         ::testing::Combine(::testing::Values(kCausal, kBlanks, kLatent, kExperts),
                                            ::testing::Values(PackedFormat{DType::kF32},
                                                              PackedFormat{DType::kI4, 32}),
                                            ::testing::Values(std::optional(DType::kI8))),
                         FamilyName);
INSTANTIATE_TEST_SUITE_P(BFloatCache, EngineFamilyTest,
                         ::testing::Combine(::testing::Values(kCausal, kLatent),
                                            ::testing::Values(PackedFormat{DType::kBF16}),
                                            ::testing::Values(std::optional(DType::kBF16))),
                         FamilyName);

// What is lost by keys and values of fewer bits, and that they are in use.
class SmallCacheTest : public ::testing::TestWithParam<DType> {};

TEST_P(SmallCacheTest, ChangesProbabilitiesALittle) {
  for (const char* config : {kCausal, kBlanks, kLatent}) {
    std::vector<double> found[2];
    for (const bool small : {false, true}) {
      EngineSetup setup{.config = config, .format = {DType::kF32}};
      if (small) setup.kv_dtype = GetParam();
      auto engine = Open(setup);
      for (GenerateRequest& request : SeventeenRequests(*engine)) {
        request.max_tokens = 1;
        request.sampling.temperature = 0;
        request.sampling.logprobs = 1;
        auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 1);
        ASSERT_TRUE(engine->Submit(std::move(request), sink).ok());
        const TokenEvent* event = sink->Wait();
        ASSERT_NE(event, nullptr);
        found[small].push_back(event->token.logprob);
        while (sink->Wait() != nullptr) {
        }
      }
    }
    double most = 0;
    for (size_t i = 0; i < found[0].size(); ++i) {
      most = std::max(most, std::abs(found[0][i] - found[1][i]));
    }
    EXPECT_GT(most, 1e-6) << config;
    EXPECT_LT(most, 0.05) << config;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SmallCacheTest,
                         ::testing::Values(DType::kF16, DType::kBF16, DType::kI8));

TEST(EngineTest, BlanksAreFilledLeftToRightOverOneCache) {
  auto engine = Open({.config = kBlanks, .format = {DType::kF32}});
  std::vector<int32_t> ids = PromptIds(3, 20);
  ids[4] = 392;
  ids[11] = 394;
  GenerateRequest both = Request(*engine, ids, 0, 6);
  GenerateRequest first = both;
  first.prompt.blanks.resize(1);
  GenerateRequest second = both;
  second.prompt.blanks.erase(second.prompt.blanks.begin());
  const std::vector<Outcome> outcomes = Generate(*engine, {both, first, second});
  ASSERT_EQ(outcomes[0].blanks.size(), 2u);
  EXPECT_EQ(outcomes[0].blanks[0], outcomes[1].blanks[0]);
  // The second blank has seen the first one.
  EXPECT_NE(outcomes[0].blanks[1], outcomes[2].blanks[0]);
}

TEST(EngineTest, WhatAnAnswerTookIsCountedWhenItEnds) {
  auto engine = Open({});
  uint64_t tokens = 0, steps = 0;
  for (int round = 0; round < 50; ++round) {
    std::vector<GenerateRequest> requests;
    for (int i = 0; i < 1 + round % 3; ++i) {
      requests.push_back(Request(*engine, PromptIds(round, 3), i, 2));
    }
    tokens += 2 * requests.size();
    Generate(*engine, std::move(requests));
    const EngineStats stats = engine->stats();
    ASSERT_EQ(stats.generated_tokens, tokens);
    ASSERT_GE(stats.steps, steps + 2);
    ASSERT_EQ(stats.running, 0);
    steps = stats.steps;
  }
}

TEST(EngineTest, EndTokensEndABlankAndAreNotEmitted) {
  auto engine = Open({});
  GenerateRequest request = Request(*engine, PromptIds(1, 9), 3, 10);
  const Outcome free = Generate(*engine, {request})[0];
  ASSERT_EQ(free.blanks[0].size(), 10u);
  request.end_tokens = {free.blanks[0][4]};
  const Outcome ended = Generate(*engine, {request})[0];
  EXPECT_LE(ended.blanks[0].size(), 4u);
  EXPECT_TRUE(std::equal(ended.blanks[0].begin(), ended.blanks[0].end(), free.blanks[0].begin()));
}

TEST(EngineTest, RefusesWhatCannotRun) {
  auto engine = Open({});
  auto refused = [&](GenerateRequest request, const char* word) {
    auto sink = std::make_shared<Sink>(1, 0);
    const auto id = engine->Submit(std::move(request), sink);
    EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument) << id.status();
    EXPECT_NE(id.status().message().find(word), absl::string_view::npos) << id.status();
  };
  refused(Request(*engine, PromptIds(1, 9), 0, 0), "max_tokens");
  refused(Request(*engine, PromptIds(1, 9), 0, -5), "max_tokens");
  refused(Request(*engine, PromptIds(1, 9), 0, 1 << 30), "max_tokens");
  refused(Request(*engine, PromptIds(1, 190), 0, 50), "context");
  GenerateRequest hot = Request(*engine, PromptIds(1, 9), 1);
  hot.sampling.temperature = -1;
  refused(std::move(hot), "temperature");
  EXPECT_FALSE(engine->model().LayOut({}).ok());
  EXPECT_FALSE(engine->model().LayOut({1, -1}).ok());
  EXPECT_FALSE(engine->model().LayOut({1, 517}).ok());
  EXPECT_FALSE(engine->model().LayOut(std::vector<int32_t>(513, 1)).ok());
}

TEST(EngineTest, TheQueueIsBoundedAndPlacesAreReused) {
  auto engine = Open({.batch = 2, .queue = 3});
  std::vector<std::shared_ptr<Sink>> sinks;
  int accepted = 0;
  for (int i = 0; i < 40; ++i) {
    GenerateRequest request = Request(*engine, PromptIds(i, 30), 0, 40);
    auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
    const auto id = engine->Submit(std::move(request), sink);
    if (id.ok()) {
      ++accepted;
      sinks.push_back(std::move(sink));
    } else {
      EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
    }
  }
  EXPECT_GE(accepted, 3);
  EXPECT_LT(accepted, 40);
  for (auto& sink : sinks) EXPECT_EQ(Collect(*sink).blanks[0].size(), 40u);
  EXPECT_EQ(Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0].blanks[0].size(), 12u);
}

// Lets one token through, and the next when it is told to.
class Gate : public Constraint {
 public:
  explicit Gate(std::atomic<bool>& open) : open_(open) {}
  void Mask(std::span<float>) override {
    if (tokens_++ > 0) open_.wait(false);
  }
  void Accept(int32_t) override {}

 private:
  std::atomic<bool>& open_;
  int tokens_ = 0;
};

TEST(EngineTest, CancelEndsWaitingAndRunningRequests) {
  std::atomic<bool> open{false};
  auto engine = Open({.batch = 1});
  std::vector<std::pair<uint64_t, std::shared_ptr<Sink>>> calls;
  for (int i = 0; i < 3; ++i) {
    GenerateRequest request = Request(*engine, PromptIds(i, 10), 0, 180);
    auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
    auto gate = i == 0 ? std::make_unique<Gate>(open) : nullptr;
    const auto id = engine->Submit(std::move(request), sink, std::move(gate));
    ASSERT_TRUE(id.ok());
    calls.emplace_back(*id, sink);
  }
  ASSERT_NE(calls[0].second->Wait(), nullptr);  // it runs
  engine->Cancel(calls[0].first);
  engine->Cancel(calls[1].first);
  engine->Cancel(987654321);
  open = true;
  open.notify_all();
  EXPECT_EQ(Collect(*calls[0].second).status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Collect(*calls[1].second).status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Collect(*calls[2].second).blanks[0].size(), 180u);
}

TEST(EngineTest, ShuttingDownClosesEveryCall) {
  std::vector<std::shared_ptr<Sink>> sinks;
  {
    auto engine = Open({.batch = 1});
    for (int i = 0; i < 4; ++i) {
      GenerateRequest request = Request(*engine, PromptIds(i, 10), 0, 180);
      sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), 0));
      ASSERT_TRUE(engine->Submit(std::move(request), sinks.back()).ok());
    }
  }
  for (auto& sink : sinks) {
    const absl::Status status = Collect(*sink).status;
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
  }
}

TEST(EngineTest, AFailingDiskFailsTheRequestsAndServesTheNext) {
  std::atomic<bool> broken{false};
  const ModelFile file = Lay(kCausal, {DType::kI4, 32});
  auto readers = [&](int index) -> absl::StatusOr<std::unique_ptr<Reader>> {
    auto inner = OpenModelReader(file, index, {});
    if (!inner.ok()) return inner.status();
    return std::make_unique<FaultyReader>(*std::move(inner), [&](uint64_t) {
      return Fault{.status = broken ? absl::DataLossError("Input/output error") : absl::OkStatus()};
    });
  };
  auto engine = Open({.streamed = true}, readers);
  const Outcome before = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
  ASSERT_TRUE(before.status.ok()) << before.status;
  broken = true;
  const Outcome during = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
  EXPECT_EQ(during.status.code(), absl::StatusCode::kDataLoss) << during.status;
  broken = false;
  // What failed to load while it was broken may fail one more request, then all is well.
  Outcome after;
  for (int attempt = 0; attempt < 3; ++attempt) {
    after = Generate(*engine, {Request(*engine, PromptIds(1, 9), 0)})[0];
    if (after.status.ok()) break;
  }
  EXPECT_TRUE(after.status.ok()) << after.status;
  EXPECT_EQ(after.blanks, before.blanks);
}

TEST(EngineTest, LogprobsAreReported) {
  auto engine = Open({});
  GenerateRequest request = Request(*engine, PromptIds(1, 9), 0, 4);
  request.sampling.report_logprob = true;
  request.sampling.logprobs = 3;
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 3);
  ASSERT_TRUE(engine->Submit(std::move(request), sink).ok());
  int tokens = 0;
  while (const TokenEvent* event = sink->Wait()) {
    if (event->finish != FinishReason::kNone) continue;
    ++tokens;
    ASSERT_EQ(event->token.top.size(), 3u);
    EXPECT_EQ(event->token.top[0].token, event->token.token);  // greedy
    EXPECT_FLOAT_EQ(event->token.top[0].logprob, event->token.logprob);
    EXPECT_LT(event->token.logprob, 0);
  }
  EXPECT_EQ(tokens, 4);
}

// Each token must be greater than the one before; after three of them only the end may come.
class Rising : public Constraint {
 public:
  explicit Rising(int32_t end) : end_(end) {}
  void Mask(std::span<float> logits) override {
    for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
      const bool allowed = taken_ == 3 ? id == end_ : id != end_ && id > last_;
      if (!allowed) logits[id] = -std::numeric_limits<float>::infinity();
    }
  }
  void Accept(int32_t token) override {
    last_ = token;
    ++taken_;
  }

 private:
  const int32_t end_;
  int32_t last_ = 99;
  int taken_ = 0;
};

TEST(EngineTest, ConstraintKeepsTheFormAndEndsTheText) {
  auto engine = Open({});
  for (uint64_t seed : {0, 1, 2, 3}) {
    GenerateRequest request = Request(*engine, PromptIds(1, 9), seed);
    request.end_tokens = {516};
    auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
    ASSERT_TRUE(engine->Submit(request, sink, std::make_unique<Rising>(516)).ok());
    const Outcome outcome = Collect(*sink);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    ASSERT_EQ(outcome.blanks.size(), 1u);
    const std::vector<int32_t>& tokens = outcome.blanks[0];
    ASSERT_EQ(tokens.size(), 3u);
    EXPECT_TRUE(99 < tokens[0] && tokens[0] < tokens[1] && tokens[1] < tokens[2]);
  }
}

TEST(EngineTest, ConstraintNeedsOneBlank) {
  auto engine = Open({.config = kBlanks});
  std::vector<int32_t> ids = PromptIds(1, 9);
  ids[2] = ids[5] = 392;
  GenerateRequest request = Request(*engine, ids, 0);
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  const auto id = engine->Submit(std::move(request), sink, std::make_unique<Rising>(391));
  EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument) << id.status();
}

TEST(EngineTest, OneReaderServesManySinksByTheirBell) {
  auto engine = Open({});
  Bell bell;
  std::vector<std::shared_ptr<Sink>> sinks;
  for (int i = 0; i < 5; ++i) {
    GenerateRequest request = Request(*engine, PromptIds(i, 9), i, 3 + i);
    sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(request), 0, &bell));
    ASSERT_TRUE(engine->Submit(std::move(request), sinks.back()).ok());
  }
  std::vector<int> tokens(5, 0);
  int open = 5;
  while (open > 0) {
    const uint32_t seen = bell.rings();
    for (int i = 0; i < 5; ++i) {
      bool closed = false;
      while (sinks[i] != nullptr && !closed) {
        const TokenEvent* event = sinks[i]->Poll(&closed);
        if (event == nullptr) break;
        if (event->finish == FinishReason::kNone) ++tokens[i];
      }
      if (!closed) continue;
      sinks[i].reset();
      --open;
    }
    if (open > 0) bell.Wait(seen);
  }
  EXPECT_EQ(tokens, (std::vector<int>{3, 4, 5, 6, 7}));
  // Twice a step, when half was sampled and at its end, and for each end: not for each token. The
  // last step may not be counted yet.
  const uint64_t steps = engine->stats().steps;
  EXPECT_LE(bell.rings(), 2 * (steps + 1) + 5);
  EXPECT_GE(bell.rings(), steps + 5);
}

}  // namespace
}  // namespace qianyi
