#include "runtime/scoring.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/models/registry.h"
#include "runtime/storage/synth.h"

namespace qianyi {
namespace {

constexpr char kCausal[] =
    R"({"model_type":"chatglm","num_layers":2,"hidden_size":128,"ffn_hidden_size":272,)"
    R"("num_attention_heads":8,"multi_query_group_num":2,"kv_channels":16,)"
    R"("padded_vocab_size":517,"seq_length":512})";
constexpr char kBlanks[] =
    R"({"model_type":"glm","num_layers":2,"hidden_size":128,"num_attention_heads":2,)"
    R"("max_sequence_length":64,"vocab_size":400,"special_token_ids":)"
    R"({"sop":390,"eop":391,"MASK":392,"gMASK":393}})";

std::unique_ptr<LoadedModel> Open(const char* config, int64_t context) {
  auto spec = DescribeModel(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto file = ModelFile::Lay(*spec, {DType::kI8}, 5);
  EXPECT_TRUE(file.ok()) << file.status();
  LoadOptions options;
  options.context_tokens = options.prompt_tokens = context;
  options.logit_rows = 32;
  options.host_bytes = 1ull << 30;
  options.process_bytes = 1 << 20;
  auto loaded = LoadedModel::Open(*std::move(file), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return *std::move(loaded);
}

// What the engine reports while it writes a text is what scoring says of it.
TEST(ScoringTest, AgreesWithTheEngine) {
  for (const char* config : {kCausal, kBlanks}) {
    std::vector<int32_t> ids = {7, 12, 44, 301, 9};
    if (config == kBlanks) ids.push_back(393);
    std::vector<int32_t> tokens;
    double expected = 0;
    {
      Engine engine(Open(config, 64), {.queue = 4});
      GenerateRequest request{
          .prompt = *engine.model().LayOut(ids), .sampling = {}, .max_tokens = 9, .end_tokens = {}};
      request.sampling.seed = 3;
      request.sampling.report_logprob = true;
      auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
      ASSERT_TRUE(engine.Submit(std::move(request), sink).ok());
      while (const TokenEvent* event = sink->Wait()) {
        if (event->finish != FinishReason::kNone) continue;
        tokens.push_back(event->token.token);
        expected += event->token.logprob;
      }
    }
    ASSERT_EQ(tokens.size(), 9u);
    auto model = Open(config, 64);
    const Prompt prompt = *model->model().LayOut(ids);
    for (int again = 0; again < 3; ++again) {  // it leaves nothing behind in the cache
      const auto scored = LogProbability(*model, prompt, tokens);
      ASSERT_TRUE(scored.ok()) << scored.status();
      EXPECT_NEAR(*scored, expected, 1e-3) << config;
    }
    const auto nothing = LogProbability(*model, prompt, {});
    EXPECT_EQ(*nothing, 0.0);
  }
}

TEST(ScoringTest, WhatHasNoRoomIsRefused) {
  auto model = Open(kBlanks, 24);
  const Prompt prompt = *model->model().LayOut({7, 12, 393});
  EXPECT_TRUE(LogProbability(*model, prompt, std::vector<int32_t>(20, 5)).ok());
  EXPECT_EQ(LogProbability(*model, prompt, std::vector<int32_t>(40, 5)).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto wide = Open(kBlanks, 200);
  EXPECT_EQ(LogProbability(*wide, prompt, std::vector<int32_t>(100, 5)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qianyi
