// How GLM-130B and ChatGLM-6B lay out and write their prompts, and masks that are filled one by
// one.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/models/registry.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/glm_sentencepiece.h"
#include "tests/runtime/engine_setup.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kSop = 390, kMask = 392, kGmask = 393, kSmask = 394, kEos = 395;
constexpr char kGlm130b[] =
    R"({"model_type":"glm-130b","num_layers":2,"hidden_size":96,"inner_hidden_size":80,)"
    R"("num_attention_heads":3,"max_sequence_length":64,"vocab_size":400,"special_token_ids":)"
    R"({"sop":390,"eop":391,"[MASK]":392,"[gMASK]":393,"[sMASK]":394,"eos":395}})";
constexpr char kChatGlm6b[] =
    R"({"model_type":"chatglm","num_layers":2,"hidden_size":96,"num_attention_heads":3,)"
    R"("max_sequence_length":64,"vocab_size":400,"bos_token_id":390,"eos_token_id":391,)"
    R"("mask_token_id":392,"gmask_token_id":393})";

std::unique_ptr<Model> Make(const std::string& config) {
  auto model = CreateModel(Lay(config.c_str(), {DType::kF32}));
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

Prompt LayOut(const std::string& config, Ids ids) {
  auto prompt = Make(config)->LayOut(std::move(ids));
  EXPECT_TRUE(prompt.ok()) << prompt.status();
  return prompt.value_or(Prompt{});
}

TEST(Glm130bTest, GmaskCountsOn) {
  const Prompt prompt = LayOut(kGlm130b, {7, 8, kGmask, kSop});
  EXPECT_EQ(prompt.tokens, (Ids{7, 8, kGmask, kSop}));
  EXPECT_EQ(prompt.positions[0], (Ids{0, 1, 2, 3}));
  EXPECT_EQ(prompt.bidirectional, 3);
  ASSERT_EQ(prompt.blanks.size(), 1u);
  EXPECT_EQ(prompt.blanks[0].position[0], 4);
  EXPECT_EQ(prompt.blanks[0].stride[0], 1);
  EXPECT_EQ(prompt.blanks[0].mask, 2);
}

TEST(Glm130bTest, AMaskInsideHoldsThePosition) {
  for (const int32_t mask : {kMask, kSmask}) {
    const Prompt prompt = LayOut(kGlm130b, {7, mask, 8, kEos, kSop});
    EXPECT_EQ(prompt.positions[0], (Ids{0, 1, 2, 3, 1}));
    EXPECT_EQ(prompt.bidirectional, 4);
    EXPECT_EQ(prompt.blanks[0].position[0], 1);
    EXPECT_EQ(prompt.blanks[0].stride[0], 0);
  }
}

TEST(Glm130bTest, TextBehindSopIsReadFromLeftToRight) {
  const Prompt prompt = LayOut(kGlm130b, {kGmask, kSop, 7, 8, 9});
  EXPECT_EQ(prompt.positions[0], (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(prompt.bidirectional, 1);
  EXPECT_EQ(prompt.blanks[0].position[0], 5);
  EXPECT_EQ(prompt.blanks[0].start_token, -1);
}

TEST(Glm130bTest, WhatIsMissingIsAdded) {
  EXPECT_EQ(LayOut(kGlm130b, {7, 8}).tokens, (Ids{7, 8, kGmask, kSop}));
  EXPECT_EQ(LayOut(kGlm130b, {7, kMask, 8}).tokens, (Ids{7, kMask, 8, kEos, kSop}));
  EXPECT_EQ(LayOut(kGlm130b, {7, kMask}).tokens, (Ids{7, kMask, kSop}));
}

TEST(Glm130bTest, SeveralMasksAreRefilled) {
  const Prompt prompt = LayOut(kGlm130b, {7, kMask, 8, kGmask, kMask, 9});
  EXPECT_TRUE(prompt.refill);
  EXPECT_EQ(prompt.tokens, (Ids{7, kMask, 8, kGmask, kMask, 9, kEos}));
  EXPECT_EQ(prompt.bidirectional, 7);
  ASSERT_EQ(prompt.blanks.size(), 2u);
  EXPECT_EQ(prompt.blanks[0].mask, 1);
  EXPECT_EQ(prompt.blanks[1].mask, 4);
  EXPECT_EQ(prompt.blanks[1].start_token, kSop);
  EXPECT_FALSE(LayOut(kGlm130b, {7, kMask, 8, kMask, kSop, 5}).refill);
}

TEST(Glm130bTest, RefusesASopWithoutAMask) {
  const auto prompt = Make(kGlm130b)->LayOut({7, kSop, 8});
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
}

// Greedy, and never a control token: one in a blank would be read as such when laid out by hand.
GenerateRequest PlainRequest(const Engine& engine, Ids ids, int32_t max_tokens) {
  GenerateRequest request = Request(engine, std::move(ids), 0, max_tokens);
  for (int32_t id = 380; id < 400; ++id) request.sampling.logit_bias.push_back({id, -100.0f});
  return request;
}

// Each step by hand: what the engine does with one prompt.
TEST(Glm130bTest, RefillingEqualsPromptsWithTheEarlierMasksFilled) {
  for (const int32_t mask : {kMask, kGmask}) {
    auto engine = Open({.config = kGlm130b, .format = {DType::kF32}, .batch = 4});
    Ids context = PromptIds(3, 12);
    context[2] = context[5] = context[9] = mask;
    context.push_back(kEos);
    const GenerateRequest all = PlainRequest(*engine, context, 5);
    // Other requests beside it, so that steps mix fresh contexts and single tokens.
    const Outcome refilled =
        Generate(*engine, {all, Request(*engine, PromptIds(1, 9), 4, 9), all})[0];
    ASSERT_TRUE(refilled.status.ok()) << refilled.status;
    ASSERT_EQ(refilled.blanks.size(), 3u);
    Ids filled = context;
    for (int i = 0; i < 3; ++i) {
      const auto at = std::find(filled.begin(), filled.end(), mask);
      // One mask alone: the others stand in the context, and are no blanks of this request.
      GenerateRequest step = PlainRequest(*engine, filled, 5);
      if (step.prompt.refill) step.prompt.blanks.resize(1);
      const Ids blank = Generate(*engine, {step})[0].blanks[0];
      EXPECT_EQ(refilled.blanks[i], blank) << "blank " << i;
      const auto after = filled.erase(at);
      filled.insert(after, blank.begin(), blank.end());
    }
  }
}

TEST(Glm130bTest, TheLastBlankMustEndWithinThePositions) {
  auto engine = Open({.config = kGlm130b, .format = {DType::kF32}, .batch = 1});
  Ids context = PromptIds(2, 30);
  context[3] = context[20] = kGmask;
  const ModelSpec& spec = engine->model().spec();
  EXPECT_TRUE(Engine::Check(Request(*engine, context, 0, 10), spec, 1000).ok());
  const absl::Status status = Engine::Check(Request(*engine, context, 0, 20), spec, 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST(ChatGlm6bTest, PositionsInTwoRows) {
  const Prompt prompt = LayOut(kChatGlm6b, {7, kMask, 8, kSop, 9});
  EXPECT_EQ(prompt.positions[0], (Ids{0, 1, 2, 1, 1}));
  EXPECT_EQ(prompt.positions[1], (Ids{0, 0, 0, 1, 2}));
  EXPECT_EQ(prompt.bidirectional, 3);
  EXPECT_EQ(prompt.blanks[0].position[0], 1);
  EXPECT_EQ(prompt.blanks[0].position[1], 3);
  // [gMASK] comes first, wherever it stands.
  EXPECT_EQ(LayOut(kChatGlm6b, {kMask, 7, kGmask, kSop}).blanks[0].mask, 2);
}

TEST(ChatGlm6bTest, WhatIsMissingIsAdded) {
  EXPECT_EQ(LayOut(kChatGlm6b, {7, 8}).tokens, (Ids{7, 8, kGmask, kSop}));
  EXPECT_EQ(LayOut(kChatGlm6b, {7, kMask, 8}).tokens, (Ids{7, kMask, 8, kSop}));
  EXPECT_FALSE(Make(kChatGlm6b)->LayOut({7, kSop}).ok());
}

// Texts, with icetk's vocabulary.
class PostNormTextTest : public ::testing::Test {
 protected:
  PostNormTextTest() {
    const std::string path = qianyi::testing::FixturePath("glm-tokenizers/icetk-bpe.model");
    const auto file = ReadTextFile(path, 1 << 24);
    EXPECT_TRUE(file.ok()) << file.status();
    auto opened = ParseIcetk(*file, {.image_tokens = 20}, path);
    EXPECT_TRUE(opened.ok()) << opened.status();
    tokenizer_ = *std::move(opened);
    eos_ = tokenizer_->WordId("</s>");
    mask_ = tokenizer_->WordId("[MASK]");
    gmask_ = tokenizer_->WordId("[gMASK]");
    sop_ = tokenizer_->WordId("<sop>");
  }
  Ids Words(std::string_view text) const { return *tokenizer_->Encode(text, false); }
  Ids Encode(const Model& model, std::string_view text, bool commands = true) const {
    const PromptPart part{text, commands};
    auto ids = model.Encode(*tokenizer_, {&part, 1});
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(Ids());
  }
  static Ids Join(std::vector<Ids> parts) {
    Ids all;
    for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t eos_ = -1, mask_ = -1, gmask_ = -1, sop_ = -1;
};

TEST_F(PostNormTextTest, Glm130b) {
  const auto model = Make(absl::StrCat(
      R"({"model_type":"glm-130b","num_layers":1,"hidden_size":32,"inner_hidden_size":16,)",
      R"("num_attention_heads":2,"max_sequence_length":64,"vocab_size":)", tokenizer_->vocab_size(),
      R"(,"special_token_ids":{"sop":)", sop_, R"(,"[MASK]":)", mask_, R"(,"[gMASK]":)", gmask_,
      R"(,"eos":)", eos_, "}}"));
  EXPECT_EQ(Encode(*model, "the server"), Join({Words("the server"), {gmask_, sop_}}));
  EXPECT_EQ(Encode(*model, "the [gMASK]"), Join({Words("the "), {gmask_, sop_}}));
  const Ids inside = Encode(*model, "the [MASK] server");
  EXPECT_EQ(std::count(inside.begin(), inside.end(), mask_), 1);
  EXPECT_EQ(Ids(inside.end() - 2, inside.end()), (Ids{eos_, sop_}));
  const Ids from_left = Encode(*model, "[gMASK]the server");
  EXPECT_EQ(Ids(from_left.begin(), from_left.begin() + 2), (Ids{gmask_, sop_}));
  EXPECT_EQ(std::count(from_left.begin(), from_left.end(), sop_), 1);
  // What a user typed is text.
  const Ids typed = Encode(*model, "the [MASK]", false);
  EXPECT_EQ(std::count(typed.begin(), typed.end(), mask_), 0);
}

TEST_F(PostNormTextTest, ChatGlm6b) {
  const auto model = Make(absl::StrCat(
      R"({"model_type":"chatglm","num_layers":1,"hidden_size":32,"num_attention_heads":2,)",
      R"("max_sequence_length":64,"vocab_size":)", tokenizer_->vocab_size(), R"(,"bos_token_id":)",
      sop_, R"(,"mask_token_id":)", mask_, R"(,"gmask_token_id":)", gmask_, "}"));
  EXPECT_EQ(Encode(*model, "the server"), Join({Words("the server"), {gmask_, sop_}}));
  const Ids inside = Encode(*model, "the [MASK] server");
  EXPECT_EQ(inside.back(), sop_);
  EXPECT_EQ(std::count(inside.begin(), inside.end(), gmask_), 0);
}

}  // namespace
}  // namespace qianyi
