// The mean of a prompt's final hidden states, as the engine makes it.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "runtime/engine.h"
#include "runtime/scheduler.h"
#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

struct Mean {
  std::vector<float> values;
  absl::Status status;
};

std::vector<Mean> Embed(Engine& engine, const std::vector<GenerateRequest>& requests) {
  std::vector<std::shared_ptr<Sink>> sinks;
  for (const GenerateRequest& request : requests) {
    sinks.push_back(std::make_shared<Sink>(Sink::Mean{engine.model().spec().hidden_size}));
    const auto id = engine.Submit(request, sinks.back());
    EXPECT_TRUE(id.ok()) << id.status();
  }
  std::vector<Mean> means;
  for (auto& sink : sinks) {
    EXPECT_EQ(sink->Wait(), nullptr);  // no tokens come
    means.push_back({{sink->mean().begin(), sink->mean().end()}, sink->status()});
  }
  return means;
}

std::vector<GenerateRequest> Requests(const Engine& engine, int count) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> ids = PromptIds(i, 3 + 11 * i % 67);
    if (engine.model().spec().bidirectional) ids.back() = 393;
    requests.push_back(Request(engine, ids, 1, 1));
  }
  return requests;
}

// By hand: all rows go through the head.
std::vector<float> ByHand(const EngineSetup& setup, const GenerateRequest& request) {
  LoadOptions options;
  const int64_t tokens = static_cast<int64_t>(request.prompt.tokens.size());
  options.context_tokens = options.prompt_tokens = 200;
  options.logit_rows = 200;
  options.threads = setup.threads;
  options.host_bytes = 4ull << 30;
  options.process_bytes = 1 << 20;
  auto loaded = LoadedModel::Open(Lay(setup.config, setup.format), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  Generation generation(request.prompt, 1);
  Sequence& sequence = generation.sequence;
  EXPECT_TRUE((*loaded)->Reserve(generation.max_cached(), &sequence));
  Step step(200);
  Sequence* const sequences[] = {&sequence};
  const int order[] = {0};
  ScheduleStep(sequences, order, {.prompt_tokens = 200}, &step);
  step.logit_tokens.clear();
  for (int32_t i = 0; i < tokens; ++i) step.logit_tokens.push_back(i);
  EXPECT_TRUE((*loaded)->Run(step).ok());
  const Tensor rows = (*loaded)->pass().head_input();
  std::vector<float> mean;
  for (int64_t i = 0; i < rows.cols; ++i) {
    double sum = 0;
    for (int64_t row = 0; row < rows.rows; ++row) sum += static_cast<double>(rows.f32(row)[i]);
    mean.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
  }
  return mean;
}

TEST(EmbeddingEngineTest, IsTheMeanAndTheSameHoweverItIsComputed) {
  for (const char* config : {kCausal, kBlanks, kLatent}) {
    const EngineSetup plain{.config = config};
    std::vector<Mean> together;
    std::vector<GenerateRequest> requests;
    {
      auto engine = Open(plain);
      requests = Requests(*engine, 9);
      together = Embed(*engine, requests);
    }
    for (size_t i = 0; i < together.size(); ++i) {
      ASSERT_TRUE(together[i].status.ok()) << together[i].status;
      if (i >= 3) continue;
      EXPECT_EQ(together[i].values, ByHand(plain, requests[i])) << config << i;
    }
    for (const EngineSetup& setup :
         {EngineSetup{.config = config, .batch = 1},
          EngineSetup{.config = config, .batch = 3, .step_tokens = 7},
          EngineSetup{.config = config, .threads = 1, .streamed = true}}) {
      auto engine = Open(setup);
      const std::vector<Mean> again = Embed(*engine, requests);
      for (size_t i = 0; i < again.size(); ++i) {
        EXPECT_EQ(again[i].values, together[i].values) << config << " " << i;
      }
    }
  }
}

TEST(EmbeddingEngineTest, TextsWrittenMeanwhileAreAsTheyWouldBe) {
  auto engine = Open({});
  const std::vector<GenerateRequest> embedded = Requests(*engine, 4);
  const GenerateRequest text = Request(*engine, PromptIds(5, 21), 3);
  const Outcome alone = Generate(*engine, {text})[0];
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(text), 0);
  ASSERT_TRUE(engine->Submit(text, sink).ok());
  Embed(*engine, embedded);
  EXPECT_EQ(Collect(*sink).blanks, alone.blanks);
  EXPECT_EQ(engine->stats().running, 0);
}

}  // namespace
}  // namespace qianyi
