// Constraints where they are used: the engine, a real vocabulary, and the allocator.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/models/registry.h"
#include "runtime/storage/synth.h"
#include "runtime/verse/check_verse.h"
#include "runtime/verse/verse_constraint.h"
#include "tests/runtime/verse/allocations.h"
#include "tests/runtime/verse/fake_tokenizer.h"
#include "tests/runtime/verse/walk.h"
#include "tests/support/paths.h"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

using ::qianyi::testing::FakeTokenizer;
using ::qianyi::testing::TableCharacters;
using ::qianyi::testing::Taste;
using ::qianyi::testing::Vocabulary;
using ::qianyi::testing::Walk;
using ::qianyi::testing::WithPhrases;

constexpr PoemRules kBoth{.rhyme = true, .tones = true};

void ExpectNoAllocation(const VerseTokens& tokens, Constraint& constraint) {
  std::vector<float> logits(tokens.vocab_size());
  for (int step = 0; step < 200; ++step) {
    std::fill(logits.begin(), logits.end(), 0.0f);
    const int64_t before = qianyi::testing::Allocations();
    constraint.Mask(logits);
    size_t token = logits.size() - 1;  // phrases are the last
    while (logits[token] < 0) --token;
    if (token != 0) constraint.Accept(static_cast<int32_t>(token));
    ASSERT_EQ(qianyi::testing::Allocations(), before) << step;
    if (token == 0) return;
  }
  FAIL() << "no end";
}

TEST(VerseEngineTest, MaskAndAcceptDoNotAllocate) {
  const FakeTokenizer tokenizer(WithPhrases(Vocabulary(TableCharacters(10)), 500, 9));
  const VerseTokens tokens(tokenizer);
  auto poem = MakePoemConstraint(tokens, *FindVerseForm("七律"), kBoth, {0});
  ASSERT_TRUE(poem.ok());
  ExpectNoAllocation(tokens, **poem);
  auto couplet = MakeCoupletConstraint(tokens, "无边落木，萧萧下", {.tones = true}, {0});
  ASSERT_TRUE(couplet.ok());
  ExpectNoAllocation(tokens, **couplet);
}

// GLM-Chinese: 50,000 pieces, of which 34,500 have several characters, and only a narrow comma.
TEST(VerseEngineTest, WritesWithTheVocabularyOfGlmChinese) {
  qianyi::testing::TempFolder folder;
  qianyi::testing::WriteText(
      folder / "cog-pretrain.model",
      qianyi::testing::ReadText(qianyi::testing::FixturePath("tokenizers/cog-pretrain.model")));
  const auto tokenizer = OpenTokenizer(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const VerseTokens tokens(**tokenizer);
  EXPECT_GT(tokens.supply().characters, 5000);
  EXPECT_GT(tokens.several().size(), 30000u);
  EXPECT_TRUE(tokens.HasMark(U'，') && tokens.HasMark(U'。') && tokens.HasMark(U'、'));
  const int32_t end = (*tokenizer)->CommandId("eop");
  ASSERT_GE(end, 0);
  for (const char* name : {"七绝", "五律", "浣溪沙", "沁园春"}) {
    const VerseForm form = *FindVerseForm(name);
    const PoemRules rules = form.regulated ? kBoth : PoemRules{.rhyme = true};
    for (const Taste taste : {Taste::kUniform, Taste::kRarest, Taste::kLongest}) {
      auto constraint = MakePoemConstraint(tokens, form, rules, {end});
      ASSERT_TRUE(constraint.ok()) << constraint.status();
      const auto ids = Walk(tokens, {end}, 2).Run(**constraint, taste);
      const std::string text = *(*tokenizer)->Decode(ids);
      EXPECT_EQ(CheckPoem(text, form, rules), absl::OkStatus()) << text;
    }
  }
}

constexpr char kConfig[] =
    R"({"model_type":"chatglm","num_layers":2,"hidden_size":128,"ffn_hidden_size":272,)"
    R"("num_attention_heads":8,"multi_query_group_num":2,"kv_channels":16,)"
    R"("padded_vocab_size":517,"seq_length":512})";

std::unique_ptr<Engine> OpenEngine() {
  auto spec = DescribeModel(kConfig);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto file = ModelFile::Lay(*spec, {DType::kI4, 32}, 5);
  EXPECT_TRUE(file.ok()) << file.status();
  LoadOptions options;
  options.context_tokens = 200;
  options.batch = 4;
  options.threads = 1;
  options.host_bytes = 4ull << 30;
  options.process_bytes = 1 << 20;
  auto loaded = LoadedModel::Open(*std::move(file), options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return std::make_unique<Engine>(*std::move(loaded), EngineOptions{});
}

std::string Write(Engine& engine, const Tokenizer& tokenizer, uint64_t seed,
                  std::unique_ptr<Constraint> constraint) {
  auto prompt = engine.model().LayOut({5, 6, 7, 8});
  EXPECT_TRUE(prompt.ok()) << prompt.status();
  GenerateRequest request{
      .prompt = *std::move(prompt), .sampling = {}, .max_tokens = 150, .end_tokens = {0}};
  request.sampling.seed = seed;
  request.sampling.temperature = seed == 0 ? 0.0f : 1.0f;
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  const auto id = engine.Submit(std::move(request), sink, std::move(constraint));
  EXPECT_TRUE(id.ok()) << id.status();
  std::vector<int32_t> ids;
  FinishReason finish = FinishReason::kNone;
  while (const TokenEvent* event = sink->Wait()) {
    finish = event->finish;
    if (finish == FinishReason::kNone) ids.push_back(event->token.token);
  }
  EXPECT_TRUE(sink->status().ok()) << sink->status();
  EXPECT_EQ(finish, FinishReason::kStop);
  return *tokenizer.Decode(ids);
}

TEST(VerseEngineTest, InventedWeightsKeepTheForm) {
  std::vector<std::string> vocabulary = WithPhrases(Vocabulary(TableCharacters(24)), 100, 1);
  ASSERT_LE(vocabulary.size(), 517u);
  const FakeTokenizer tokenizer(vocabulary);
  const VerseTokens tokens(tokenizer);
  const auto engine = OpenEngine();
  for (const char* name : {"五绝", "七律", "浣溪沙"}) {
    const VerseForm form = *FindVerseForm(name);
    const PoemRules rules = form.regulated ? kBoth : PoemRules{.rhyme = true};
    for (uint64_t seed = 0; seed < 5; ++seed) {
      auto constraint = MakePoemConstraint(tokens, form, rules, {0});
      ASSERT_TRUE(constraint.ok()) << constraint.status();
      const std::string text = Write(*engine, tokenizer, seed, *std::move(constraint));
      EXPECT_EQ(CheckPoem(text, form, rules), absl::OkStatus()) << text;
    }
  }
  for (uint64_t seed = 0; seed < 5; ++seed) {
    auto constraint = MakeCoupletConstraint(tokens, "明月松间照", {.tones = true}, {0});
    ASSERT_TRUE(constraint.ok()) << constraint.status();
    const std::string lower = Write(*engine, tokenizer, seed, *std::move(constraint));
    EXPECT_EQ(CheckCouplet("明月松间照", lower, {.tones = true}), absl::OkStatus()) << lower;
  }
}

}  // namespace
}  // namespace qianyi
