// `paint` and `caption` as a user runs them.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

// A tiny picture model from the fixtures: 4 codes on a side, 8 pixels each.
class Painting : public ::testing::Test {
 protected:
  void SetUp() override {
    namespace fs = std::filesystem;
    const std::string source = temp_ / "source";
    fs::create_directories(source + "/vqvae");
    fs::copy_file(Fixture("cogview") + "/weights.safetensors", source + "/model.safetensors");
    fs::copy_file(Fixture("cogview") + "/tokenizer.model", source + "/tokenizer.model");
    fs::copy_file(Fixture("vqvae") + "/weights.safetensors", source + "/vqvae/model.safetensors");
    nlohmann::json config = nlohmann::json::parse(ReadText(Fixture("cogview") + "/config.json"));
    config["model_type"] = "cogview";
    config["caption_tokens"] = 6;
    config["styles"] = {{"国画", "，国画"}};
    WriteText(source + "/config.json", config.dump());
    const nlohmann::json shape = nlohmann::json::parse(ReadText(Fixture("vqvae") + "/config.json"));
    WriteText(source + "/vqvae/config.json", shape["variants"]["main"].dump());
    model_ = temp_ / "model";
    ASSERT_EQ(Qianyi({"convert", source, model_, "--dtype", "int8"}).exit_code, 0);
  }
  TempFolder temp_;
  std::string model_;
};

TEST_F(Painting, WritesPicturesAndReadsThem) {
  const std::string path = temp_ / "cat.png";
  const std::string out = Output({"paint", "--model", model_, "--text", "一只猫", "--style", "国画",
                                  "--seed", "3", "--output", path});
  EXPECT_EQ(out, path + "\n");
  EXPECT_TRUE(ReadText(path).starts_with("\x89PNG"));
  const std::string caption = Output({"caption", "--model", model_, path});
  EXPECT_GT(caption.size(), 1u);
  EXPECT_EQ(Output({"caption", "--model", model_, path}), caption);
  const std::string several = Output({"paint", "--model", model_, "--text", "一只猫", "--n", "2",
                                      "--output", temp_ / "cats.webp"});
  EXPECT_EQ(several, std::string(temp_ / "cats-1.webp") + "\n" + (temp_ / "cats-2.webp") + "\n");
  EXPECT_TRUE(ReadText(temp_ / "cats-2.webp").starts_with("RIFF"));
}

TEST_F(Painting, TheSameCodesInAnyMemoryAndCompany) {
  const Arguments paint = {"paint", "--model", model_, "--text", "一只猫", "--print-codes"};
  const std::string three = Output(paint + Arguments{"--n", "3", "--seed", "5"});
  std::string one_by_one;
  for (const char* seed : {"5", "6", "7"}) {
    one_by_one += Output(paint + Arguments{"--seed", seed, "--threads", "1"});
  }
  EXPECT_EQ(three, one_by_one);
  const std::string ranked =
      Output(paint + Arguments{"--n", "1", "--candidates", "3", "--seed", "5", "--scores"});
  EXPECT_NE(three.find(ranked.substr(0, ranked.find('\t'))), std::string::npos);
}

TEST_F(Painting, ChangesOnlyWhatTheMaskShows) {
  const Arguments paint = {"paint", "--model", model_, "--text", "一只猫"};
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--image", temp_ / "none.png"}), 1, {"--mask"}));
  EXPECT_TRUE(
      Fails(Qianyi(paint + Arguments{"--image", temp_ / "none.png", "--mask", temp_ / "none.png"}),
            1, {"none.png"}));
}

TEST_F(Painting, RefusesWhatItCannotPaint) {
  const Arguments paint = {"paint", "--model", model_};
  EXPECT_TRUE(Fails(Qianyi(paint), 1, {"empty"}));
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--text", "猫", "--style", "水彩"}), 1, {"国画"}));
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--text", "猫", "--output", "a.bmp"}), 1, {".png"}));
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--text", "猫", "--magnify"}), 1, {"magnif"}));
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--text-ids", "1,2"}), 1, {"token 1"}));
  EXPECT_TRUE(Fails(Qianyi(paint + Arguments{"--n", "0"}), 2, {"--n"}));
  WriteText(temp_ / "text.png", "no picture at all");
  EXPECT_TRUE(
      Fails(Qianyi({"caption", "--model", model_, temp_ / "text.png"}), 1, {"text.png", "PNG"}));
}

TEST(PaintCommandTest, PaintsCodesOfInventedWeights) {
  const TempFolder temp;
  WriteText(
      temp / "config.json",
      R"({"model_type":"cogview","num_layers":2,"hidden_size":64,"num_attention_heads":4,)"
      R"("num_image_tokens":100,"num_text_tokens":50,"grid":8,"max_position_embeddings":99})");
  const std::string codes = Output({"paint", "--synth", temp / "config.json", "--dtype", "int8",
                                    "--text-ids", "101,110", "--seed", "1"});
  EXPECT_EQ(std::count(codes.begin(), codes.end(), ','), 63);
}

}  // namespace
}  // namespace qianyi::testing
