#include "tests/runtime/engine_setup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "runtime/models/registry.h"

namespace qianyi {

ModelFile Lay(const char* config, PackedFormat format, uint64_t seed) {
  auto spec = DescribeModel(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto file = ModelFile::Lay(*spec, format, seed);
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

std::unique_ptr<Engine> Open(const EngineSetup& setup, ReaderFactory readers) {
  ModelFile file = Lay(setup.config, setup.format);
  LoadOptions options;
  options.context_tokens = 200;
  options.batch = setup.batch;
  options.prompt_tokens = setup.step_tokens;
  options.threads = setup.threads;
  options.host_bytes = 4ull << 30;
  options.process_bytes = 1 << 20;
  options.adapter_bytes = setup.adapter_bytes;
  options.guesses = setup.guesses;
  options.branches = setup.branches;
  options.kv_dtype = setup.kv_dtype;
  if (setup.streamed) {  // the least there can be: everything but two blocks streams
    const ModelUse use = UseOf(file, options);
    auto roomy = MakePlan({&use, 1}, HostBudget(options));
    EXPECT_TRUE(roomy.ok()) << roomy.status();
    uint64_t largest = 0;
    for (const StoredTensor& tensor : file.tensors) {
      for (const Block& block : tensor.blocks) largest = std::max(largest, block.bytes);
    }
    const ModelPlan& model = roomy->models[0];
    options.host_bytes = roomy->host_used_bytes() - model.host_bytes -
                         model.embedding_resident_bytes + 2 * (largest + 4096) + (1 << 16);
    if (const int64_t experts = file.spec.experts.total; experts > 0) {
      // More than the least of them only where all else is resident.
      const uint64_t expert_bytes = model.expert_cache_bytes / experts;
      options.host_bytes -= model.expert_cache_bytes - setup.experts_in_memory * expert_bytes;
      if (setup.experts_in_memory > 2) options.host_bytes += model.host_bytes;
    }
  }
  auto loaded = LoadedModel::Open(std::move(file), options, std::move(readers));
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  if (setup.streamed) {
    const ModelPlan& plan = (*loaded)->plan().models[0];
    EXPECT_GT(plan.disk_bytes + plan.expert_bytes - plan.expert_cache_bytes, 0u);
  }
  std::unique_ptr<Drafter> drafter;
  if (setup.draft.has_value()) {
    LoadOptions small = Drafter::OptionsFor(options);
    small.host_bytes = 4ull << 30;
    auto draft =
        LoadedModel::Open(Lay(setup.config, *setup.draft, setup.draft_seed), std::move(small));
    EXPECT_TRUE(draft.ok()) << draft.status();
    drafter = std::make_unique<Drafter>(*std::move(draft), /*always=*/true);
  }
  Engine::Parts parts{.drafter = std::move(drafter)};
  if (setup.prefix_bytes > 0) {
    auto made = PageFile::Create("/tmp", setup.prefix_bytes, (*loaded)->kv().page_bytes());
    EXPECT_TRUE(made.ok()) << made.status();
    parts.page_file = *std::move(made);
  }
  return std::make_unique<Engine>(*std::move(loaded),
                                  EngineOptions{.queue = setup.queue,
                                                .keeps_prefixes = setup.keeps_prefixes,
                                                .always_guesses = setup.guesses > 0},
                                  std::move(parts));
}

std::vector<int32_t> PromptIds(int which, int length) {
  std::vector<int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back((which * 131 + i * 17 + i * i) % 380);
  return ids;
}

std::vector<int32_t> SomePrompt(const Engine& engine, int which) {
  std::vector<int32_t> ids = PromptIds(which, 5 + 9 * which % 83);
  if (engine.model().spec().bidirectional) {
    ids[2] = 392;
    if (which % 2 == 0) ids.back() = 393;
  }
  return ids;
}

GenerateRequest Request(const Engine& engine, std::vector<int32_t> ids, uint64_t seed,
                        int32_t max_tokens) {
  auto prompt = engine.model().LayOut(std::move(ids));
  EXPECT_TRUE(prompt.ok()) << prompt.status();
  GenerateRequest request{
      .prompt = *std::move(prompt), .sampling = {}, .max_tokens = max_tokens, .end_tokens = {}};
  request.sampling.seed = seed;
  request.sampling.temperature = seed == 0 ? 0.0f : 0.9f;
  return request;
}

std::vector<GenerateRequest> FewWords(const Engine& engine, float bias,
                                      int32_t (*max_tokens)(int which)) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 17; ++i) {
    GenerateRequest request = Request(engine, SomePrompt(engine, i), i, max_tokens(i));
    request.sampling.temperature = i % 4 == 0 ? 0.0f : 1.0f;
    for (const int32_t token : {40, 41, 42, 43}) {
      request.sampling.logit_bias.push_back({token, bias});
    }
    if (i % 3 == 0) request.sampling.repetition_penalty = 1.1f;
    if (i % 5 == 0) request.end_tokens = {43};
    requests.push_back(std::move(request));
  }
  return requests;
}

std::string FamilyName(const ::testing::TestParamInfo<const char*>& test) {
  static const char* const kNames[] = {"causal", "blanks", "experts", "latent"};
  return kNames[test.index];
}

Outcome Collect(Sink& sink) {
  Outcome outcome;
  while (const TokenEvent* event = sink.Wait()) {
    outcome.blanks.resize(std::max<size_t>(outcome.blanks.size(), event->blank + 1));
    if (event->finish == FinishReason::kNone) {
      outcome.blanks[event->blank].push_back(event->token.token);
    }
  }
  outcome.status = sink.status();
  return outcome;
}

std::vector<Outcome> Generate(Engine& engine, std::vector<GenerateRequest> requests) {
  std::vector<std::shared_ptr<Sink>> sinks;
  std::vector<Outcome> outcomes(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    sinks.push_back(std::make_shared<Sink>(Engine::MaxEvents(requests[i]), 0));
    const auto id = engine.Submit(std::move(requests[i]), sinks.back());
    EXPECT_TRUE(id.ok()) << id.status();
    outcomes[i].status = id.status();
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    if (outcomes[i].status.ok()) outcomes[i] = Collect(*sinks[i]);
  }
  return outcomes;
}

}  // namespace qianyi
