// `qianyi plan`: the numbers a user decides by, without any weights at hand.
#include <cmath>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/sanitizers.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

using nlohmann::json;

using Settings = std::map<std::string, std::string>;

// GLM-4-9B with 3 GiB of RAM on a machine whose rates are given; `changed` settings win.
Arguments Glm4(Settings changed = {}) {
  changed.merge(Settings{{"--config", "glm-4-9b"},
                         {"--dtype", "int4"},
                         {"--context", "2048"},
                         {"--batch", "1"},
                         {"--host-memory", "3GiB"},
                         {"--host-bandwidth", "30GB/s"},
                         {"--disk", "3GB/s"},
                         {"--compute", "3e12"}});
  Arguments arguments = {"plan", "--json"};
  for (const auto& [flag, value] : changed) arguments = arguments + Arguments{flag, value};
  return arguments;
}

void ExpectContractKeys(const json& plan) {
  for (const char* key : {"resident_bytes", "streamed_bytes", "kv_bytes", "tokens_per_second"}) {
    ASSERT_TRUE(plan.contains(key) && plan[key].is_number()) << key << "\n" << plan.dump(1);
    EXPECT_GE(plan[key].get<double>(), 0) << key;
  }
  ASSERT_TRUE(plan.contains("bound") && plan["bound"].contains("link") &&
              plan["bound"].contains("step_seconds"))
      << plan.dump(1);
  EXPECT_GT(plan["bound"]["step_seconds"].get<double>(), 0);
}

TEST(Plan, OfAModelThatDoesNotFitIsBoundByTheDisk) {
  const json plan = OutputJson(Glm4());
  ExpectContractKeys(plan);
  EXPECT_EQ(plan["bound"]["link"], "disk");
  const double streamed = plan["streamed_bytes"];
  const double resident = plan["resident_bytes"];
  const double seconds = plan["bound"]["step_seconds"];
  EXPECT_NEAR(seconds, streamed / 3e9, 0.01 * seconds);
  EXPECT_NEAR(plan["tokens_per_second"].get<double>() * seconds, 1, 0.01);
  // 9.4 billion weights less the embedding, 4 bits and a scale each.
  EXPECT_GT(resident + streamed, 4.6e9);
  EXPECT_LT(resident + streamed, 5.1e9);
  EXPECT_GT(resident, 1e9);
  EXPECT_LE(plan["host_used_bytes"].get<double>(), 3.0 * (1 << 30));
  // 40 layers x 2 groups x (128 + 128) numbers of 2 bytes, 2,048 tokens.
  EXPECT_EQ(plan["kv_bytes"].get<double>(), 40.0 * 2 * 256 * 2 * 2048);
}

TEST(Plan, OfABatchSharesTheSweep) {
  const json one = OutputJson(Glm4({{"--context", "256"}}));
  const json many = OutputJson(Glm4({{"--context", "256"}, {"--batch", "64"}}));
  ExpectContractKeys(many);
  EXPECT_EQ(many["kv_bytes"].get<double>(), 64 * one["kv_bytes"].get<double>());
  // The cache of 64 takes the place of resident weights.
  EXPECT_LT(many["resident_bytes"].get<double>(), one["resident_bytes"].get<double>());
  const double seconds = many["bound"]["step_seconds"];
  EXPECT_NEAR(many["tokens_per_second"].get<double>(), 64 / seconds, 0.01 * 64 / seconds);
  EXPECT_GT(many["tokens_per_second"].get<double>(), 20 * one["tokens_per_second"].get<double>());
}

TEST(Plan, ChoosesTheBatchAndThenIsThatOfTheNumber) {
  const json chosen = OutputJson(Glm4({{"--batch", "auto"}, {"--context", "256"}}));
  ExpectContractKeys(chosen);
  const int batch = chosen["batch"];
  // 3e12 operations/s are 170 times 2 for each weight; the cache takes its share of memory.
  EXPECT_GE(batch, 32);
  EXPECT_LE(batch, 256);
  const json same = OutputJson(Glm4({{"--batch", std::to_string(batch)}, {"--context", "256"}}));
  EXPECT_EQ(same["kv_bytes"], chosen["kv_bytes"]);
  EXPECT_NEAR(same["tokens_per_second"].get<double>() / chosen["tokens_per_second"].get<double>(),
              1,
              0.01);  // what the program itself takes varies
  const json slow =
      OutputJson(Glm4({{"--batch", "auto"}, {"--context", "256"}, {"--compute", "1e11"}}));
  EXPECT_LT(slow["batch"].get<int>(), batch);
}

TEST(Plan, WithRoomForAllIsBoundByMemory) {
  const json plan = OutputJson(Glm4({{"--host-memory", "16GiB"}}));
  EXPECT_EQ(plan["streamed_bytes"], 0);
  EXPECT_EQ(plan["bound"]["link"], "host_memory");
  const double bytes = plan["resident_bytes"].get<double>() + plan["kv_bytes"].get<double>();
  EXPECT_NEAR(plan["bound"]["step_seconds"].get<double>(), bytes / 30e9, 0.02 * bytes / 30e9);
}

TEST(Plan, OfAHugeBatchIsBoundByArithmetic) {
  const json plan = OutputJson(Glm4({{"--host-memory", "64GiB"},
                                     {"--batch", "512"},
                                     {"--context", "256"},
                                     {"--compute", "1e11"}}));
  EXPECT_EQ(plan["bound"]["link"], "compute");
  // Two operations a weight and token.
  EXPECT_NEAR(plan["bound"]["step_seconds"].get<double>(), 2 * 8.78e9 * 512 / 1e11, 3);
}

TEST(Plan, WithADeviceSplitsOverTheTiers) {
  const Settings device = {
      {"--device-memory", "3GiB"}, {"--device-bandwidth", "1000GB/s"}, {"--link", "25GB/s"}};
  Settings roomy = device;
  roomy["--host-memory"] = "16GiB";
  roomy["--cpu-rows"] = "off";
  const json off = OutputJson(Glm4(roomy));
  ExpectContractKeys(off);
  EXPECT_GT(off["device_weight_bytes"].get<double>(), 1e9);
  EXPECT_LE(off["device_used_bytes"].get<double>(), 3.0 * (1 << 30));
  EXPECT_EQ(off["bound"]["link"], "host_to_device");
  EXPECT_NEAR(off["bound"]["step_seconds"].get<double>(),
              off["streamed_bytes"].get<double>() / 25e9, 1e-3);
  // Rows computed where they lie need not move.
  roomy["--cpu-rows"] = "auto";
  const json automatic = OutputJson(Glm4(roomy));
  EXPECT_LT(automatic["streamed_bytes"].get<double>(), off["streamed_bytes"].get<double>());
  EXPECT_LT(automatic["bound"]["step_seconds"].get<double>(),
            off["bound"]["step_seconds"].get<double>());
  // Too little RAM and device memory: the disk again.
  Settings scarce = device;
  scarce["--device-memory"] = "1GiB";
  scarce["--host-memory"] = "1GiB";
  EXPECT_EQ(OutputJson(Glm4(scarce))["bound"]["link"], "disk");
  EXPECT_TRUE(
      Fails(Qianyi(Glm4({{"--device-memory", "8GiB"}})), 1, {"--device-bandwidth", "--link"}));
}

// GLM-130B's shape in int4 on a card of 24 GiB: what streams over PCIe 4 sets the pace, and rows
// that the CPU computes where they lie relieve it.
TEST(Plan, OfAHundredBillionParametersOnOneCard) {
  const TempFolder folder;
  const std::string config = folder / "config.json";
  WriteText(config,
            R"({"model_type":"glm","num_layers":70,"hidden_size":12288,"num_attention_heads":96,)"
            R"("max_sequence_length":2048,"vocab_size":150528,"special_token_ids":{"sop":150004,)"
            R"("eop":150005,"MASK":150000,"gMASK":150001,"sMASK":150002,"eos":150003}})");
  const Arguments arguments = {"plan",
                               "--json",
                               "--config",
                               config,
                               "--dtype",
                               "int4",
                               "--context",
                               "2048",
                               "--batch",
                               "1",
                               "--disk",
                               "7GB/s",
                               "--link",
                               "25GB/s",
                               "--host-bandwidth",
                               "80GB/s",
                               "--device-bandwidth",
                               "1000GB/s",
                               "--device-memory",
                               "24GiB",
                               "--host-memory",
                               "96GiB"};
  const json off = OutputJson(arguments + Arguments{"--cpu-rows", "off"});
  EXPECT_GT(off["streamed_bytes"].get<double>(), 40e9);
  EXPECT_LT(off["streamed_bytes"].get<double>(), 52e9);
  EXPECT_GT(off["bound"]["step_seconds"].get<double>(), 1.6);
  EXPECT_LT(off["bound"]["step_seconds"].get<double>(), 2.2);
  EXPECT_EQ(off["bound"]["link"], "host_to_device");
  EXPECT_EQ(off["kv_bytes"].get<double>(), 70.0 * 2 * 12288 * 2 * 2048);
  const json automatic = OutputJson(arguments + Arguments{"--cpu-rows", "auto"});
  EXPECT_LT(automatic["bound"]["step_seconds"].get<double>(),
            off["bound"]["step_seconds"].get<double>());
}

TEST(Plan, RefusesWhatCannotFitAndSaysWhatWould) {
  EXPECT_TRUE(
      Fails(Qianyi(Glm4({{"--batch", "64"}})), 1,
            {"needs at least 5.", "GiB", "--host-memory is 3.00 GiB", "--context", "--batch"}));
  EXPECT_TRUE(Fails(
      Qianyi(Glm4(
          {{"--device-memory", "64MiB"}, {"--link", "1GB/s"}, {"--device-bandwidth", "1GB/s"}})),
      1, {"needs at least", "--device-memory is 64.0 MiB"}));
  EXPECT_TRUE(Fails(Qianyi(Glm4({{"--batch", "65536"}, {"--context", "16777216"}})), 1,
                    {"needs at least"}));
  // No sum of sizes may wrap around.
  TempFolder temp;
  WriteText(temp / "huge.json",
            R"({"model_type":"chatglm","num_layers":1024,"hidden_size":16,)"
            R"("ffn_hidden_size":16,"num_attention_heads":1024,"multi_query_attention":false,)"
            R"("kv_channels":1024,"padded_vocab_size":65536,"seq_length":16777216})");
  EXPECT_TRUE(Fails(
      Qianyi(Glm4(
          {{"--config", temp / "huge.json"}, {"--batch", "65536"}, {"--context", "16777216"}})),
      1, {"needs at least", "GiB"}));
}

#ifdef QIANYI_ADDRESS_SANITIZER
constexpr uint64_t kVariesMiB = 16;  // what the sanitizer takes differs from run to run
#else
constexpr uint64_t kVariesMiB = 0;
#endif

// Of a model so large that what the program itself takes does not decide.
TEST(Plan, TheAmountItNamesDoes) {
  const Arguments plan = {"plan",  "--config",  "glm-4-9b", "--disk", "1GB/s", "--host-bandwidth",
                          "1GB/s", "--compute", "1e12",     "--json"};
  const std::string least = absl::StrCat(LeastHostMiB(plan) + kVariesMiB, "MiB");
  EXPECT_GT(OutputJson(plan + Arguments{"--host-memory", least})["streamed_bytes"], 0);
}

TEST(Plan, MeasuresWhatIsNotGiven) {
  TempFolder temp;
  const std::string config = WriteConfig(temp, Family::kBlockLm);
  const std::string model = temp / "model";
  Output({"synth", "--config", config, "--dtype", "f16", model});
  const json plan = OutputJson({"plan", "--model", model, "--json", "--context", "64"});
  ExpectContractKeys(plan);
  for (const char* rate : {"host_bandwidth", "compute"}) {
    EXPECT_GT(plan["rates"][rate].get<double>(), 1e6) << rate;
  }
  EXPECT_EQ(plan["streamed_bytes"], 0);
  // Streamed from a file, the disk is measured too.
  const Arguments small = {"plan", "--model", model, "--context", "64"};
  const std::string least = absl::StrCat(LeastHostMiB(small), "MiB");
  const json streaming = OutputJson(small + Arguments{"--json", "--host-memory", least});
  EXPECT_GT(streaming["streamed_bytes"], 0);
  EXPECT_GT(streaming["rates"]["disk"].get<double>(), 1e6);
  // Of weights that nobody has it cannot be.
  EXPECT_TRUE(
      Fails(Qianyi({"plan", "--config", config, "--dtype", "f16", "--host-bandwidth", "1GB/s",
                    "--compute", "1e12", "--context", "64", "--host-memory", least}),
            1, {"--disk 3GB/s"}));
}

TEST(Plan, PrintsATableForPeople) {
  Arguments arguments = Glm4();
  std::erase(arguments, "--json");
  const std::string text = Output(arguments);
  for (const char* words :
       {"resident in RAM", "streamed from disk", "key-value cache", "tokens/s", "<- the bound"}) {
    EXPECT_TRUE(absl::StrContains(text, words)) << words << "\n" << text;
  }
}

}  // namespace
}  // namespace qianyi::testing
