#include "runtime/pictures/painter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "runtime/pictures/magnify.h"
#include "runtime/scoring.h"
#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

constexpr char kPainter[] =
    R"({"model_type":"cogview","num_layers":3,"hidden_size":128,"num_attention_heads":4,)"
    R"("max_position_embeddings":120,"num_image_tokens":50,"num_text_tokens":40,"grid":6,)"
    R"("caption_tokens":5,"styles":{"国画":"，国画"}})";
const std::vector<int32_t> kText = {55, 61, 70, 88, 52};

struct Studio {
  explicit Studio(EngineSetup setup = {}) {
    setup.config = kPainter;
    engine = Open(setup);
    config = **PictureConfigOf(engine->model().spec());
    const PictureEngine self = {engine.get(), &config};
    painter = std::make_unique<Painter>(Painter::Parts{self, self, {}, nullptr, nullptr});
  }
  std::vector<Painted> Paint(const PaintRequest& request) {
    PictureCall call;
    auto painted = painter->Paint(request, call);
    EXPECT_TRUE(painted.ok()) << painted.status();
    return painted.ok() ? *std::move(painted) : std::vector<Painted>();
  }
  std::unique_ptr<Engine> engine;
  PictureConfig config;
  std::unique_ptr<Painter> painter;
};

PaintRequest Asked(int32_t candidates, int32_t pictures, uint64_t seed) {
  PaintRequest request;
  request.text = kText;
  request.candidates = candidates;
  request.pictures = pictures;
  request.sampling.seed = seed;
  request.sampling.top_k = 20;
  return request;
}

// Candidate i of seed s is the one picture of seed s + i, however it is run: pages of the prompt
// are shared, and nothing of a neighbour is seen.
TEST(PainterTest, CandidatesAreThePicturesOfTheirSeeds) {
  Studio studio;
  const std::vector<Painted> together = studio.Paint(Asked(5, 5, 40));
  ASSERT_EQ(together.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(together[i].candidate, i);
    ASSERT_EQ(together[i].codes.size(), 36u);
    for (const int32_t code : together[i].codes) EXPECT_TRUE(code >= 0 && code < 50);
    const std::vector<Painted> alone = studio.Paint(Asked(1, 1, 40 + i));
    EXPECT_EQ(alone[0].codes, together[i].codes) << i;
  }
  EXPECT_NE(together[0].codes, together[1].codes);
  for (const EngineSetup& setup :
       {EngineSetup{.batch = 5, .step_tokens = 3}, EngineSetup{.threads = 1, .streamed = true}}) {
    Studio other(setup);
    const std::vector<Painted> again = other.Paint(Asked(5, 5, 40));
    for (int i = 0; i < 5; ++i) EXPECT_EQ(again[i].codes, together[i].codes) << i;
  }
}

TEST(PainterTest, TheKeptAreThoseOfTheHighestScore) {
  Studio studio;
  PaintRequest all = Asked(6, 6, 3);
  all.score = true;
  const std::vector<Painted> six = studio.Paint(all);
  const std::vector<Painted> two = studio.Paint(Asked(6, 2, 3));
  ASSERT_EQ(six.size(), 6u);
  ASSERT_EQ(two.size(), 2u);
  for (int i = 0; i < 5; ++i) EXPECT_GE(six[i].score, six[i + 1].score);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(two[i].codes, six[i].codes);
    EXPECT_EQ(two[i].score, six[i].score);
    EXPECT_LT(two[i].score, 0);
  }
}

// The score is the text's probability where image codes are impossible: greater than over all ids.
TEST(PainterTest, AScoreLeavesImageCodesOut) {
  Studio studio;
  PaintRequest request = Asked(1, 1, 9);
  request.score = true;
  const Painted one = studio.Paint(request)[0];
  LoadOptions options;
  options.context_tokens = 100;
  options.prompt_tokens = 100;
  options.logit_rows = 10;
  options.host_bytes = 1 << 30;
  options.process_bytes = 1 << 20;
  auto loaded = LoadedModel::Open(Lay(kPainter, EngineSetup{}.format), options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  std::vector<int32_t> ids = {studio.config.Command("[BASE]"), studio.config.Command("[BOI1]")};
  ids.insert(ids.end(), one.codes.begin(), one.codes.end());
  ids.push_back(studio.config.Command("[EOI1]"));
  ids.push_back(studio.config.Command("[ROI1]"));
  const auto prompt = (*loaded)->model().LayOut(ids);
  ASSERT_TRUE(prompt.ok());
  const auto whole = LogProbability(**loaded, *prompt, kText);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_GT(one.score, *whole);
  EXPECT_LT(one.score, *whole / 10);
}

TEST(PainterTest, InPaintingKeepsWhatIsGiven) {
  Studio studio;
  PaintRequest request = Asked(3, 3, 8);
  const std::vector<int32_t> before = studio.Paint(Asked(1, 1, 1))[0].codes;
  request.canvas = before;
  for (const int i : {0, 1, 9, 20, 21, 34}) request.canvas[i] = kGeneratedPlace;
  for (const Painted& painted : studio.Paint(request)) {
    for (int i = 0; i < 36; ++i) {
      const bool given = request.canvas[i] != kGeneratedPlace;
      EXPECT_TRUE(!given || painted.codes[i] == before[i]) << i;
      EXPECT_GE(painted.codes[i], 0);
    }
  }
}

TEST(PainterTest, ProgressFillsRowAfterRow) {
  Studio studio;
  PictureCall call;
  int64_t last = 0;
  const auto painted =
      studio.painter->Paint(Asked(2, 2, 5), call, [&](const PaintProgress& progress) {
        if (progress.candidate != 0 || progress.stage != PaintProgress::Stage::kPainting) return;
        EXPECT_EQ(progress.done, last + 1);
        last = progress.done;
        EXPECT_EQ(std::count(progress.codes.begin(), progress.codes.end(), kGeneratedPlace),
                  36 - last);
      });
  EXPECT_TRUE(painted.ok());
  EXPECT_EQ(last, 36);
}

TEST(PainterTest, ACancelledRequestGivesItsPlacesBack) {
  Studio studio({.batch = 4});
  for (int round = 0; round < 3; ++round) {
    PictureCall call;
    const auto painted =
        studio.painter->Paint(Asked(4, 4, 5), call, [&](const PaintProgress& progress) {
          if (progress.done == 3) call.Cancel();
        });
    EXPECT_EQ(painted.status().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_EQ(studio.Paint(Asked(4, 4, 5)).size(), 4u) << "all places and pages must be free again";
}

TEST(PainterTest, SeveralRequestsAtOnceDoNotDisturbEachOther) {
  Studio studio;
  const std::vector<Painted> expected[] = {studio.Paint(Asked(3, 3, 1)),
                                           studio.Paint(Asked(3, 3, 2))};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const std::vector<Painted> painted = studio.Paint(Asked(3, 3, 1 + i % 2));
      for (int k = 0; k < 3; ++k) EXPECT_EQ(painted[k].codes, expected[i % 2][k].codes);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(PainterTest, CaptionsAreTextOnly) {
  Studio studio;
  PictureCall call;
  const auto caption = studio.painter->Describe(std::vector<int32_t>(36, 7), {}, call);
  ASSERT_TRUE(caption.ok()) << caption.status();
  EXPECT_EQ(caption->tokens, 5);
  EXPECT_LT(caption->log_probability, 0);
}

TEST(PainterTest, RefusesWhatItCannotDo) {
  Studio studio({.batch = 4});
  const auto message = [&](PaintRequest request) {
    return std::string(studio.painter->Check(request).message());
  };
  EXPECT_NE(message(Asked(5, 1, 0)).find("1..4"), std::string::npos);
  EXPECT_NE(message(Asked(1, 2, 0)).find("candidates is 1"), std::string::npos);
  PaintRequest request = Asked(1, 1, 0);
  request.magnify = true;
  EXPECT_NE(message(request).find("magnif"), std::string::npos);
  request = Asked(1, 1, 0);
  request.canvas.assign(36, 1);
  EXPECT_NE(message(request).find("mask"), std::string::npos);
  request.canvas.clear();
  request.text.assign(100, 60);
  EXPECT_NE(message(request).find("prompt has 100 tokens"), std::string::npos);
  request.text = {3};
  EXPECT_NE(message(request).find("token 3"), std::string::npos);
  EXPECT_NE(studio.config.StyleSuffix("油画").status().message().find("国画"), std::string::npos);
}

TEST(MagnifyTest, EveryCodeIsFilledOnce) {
  const PictureConfig config = *PictureConfig::Read({{"model_type", "cogview"}});
  const std::vector<int32_t> source(32 * 32, 5);
  std::vector<int32_t> target(64 * 64, kGeneratedPlace);
  int filled = 0;
  for (const MagnifyWindow& window : kMagnifyWindows) {
    std::vector<int32_t> query = MagnifyQuery(
        window, std::vector<int32_t>{58199, 9000, 58208, 58193}, source, target, config);
    EXPECT_EQ(query.size(), 4u + 256 + 5 + window.lines * 32);
    for (int32_t& id : query) {
      if (id == kGeneratedPlace) id = filled++ % 8192;
    }
    TakeMagnified(window, query, &target);
  }
  EXPECT_EQ(filled, 64 * 64);
  EXPECT_EQ(std::count(target.begin(), target.end(), kGeneratedPlace), 0);
}

}  // namespace
}  // namespace qianyi
