// Disks that are full, readers that are gone, signals: what is written is whole or not there.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/paths.h"

namespace qianyi::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kSmallBytes = 1 << 20;

void LimitFiles(size_t bytes) {
  const rlimit limit = {bytes, bytes};
  setrlimit(RLIMIT_FSIZE, &limit);
}

// A folder in which only a megabyte can be written: a file system in memory, seen by this process
// and its children alone, or else a limit for the child's files.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path) : path_(path) {
    fs::create_directory(path_);
    const uid_t user = geteuid();
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
      WriteText("/proc/self/uid_map", absl::StrCat("0 ", user, " 1"));
    }
    mounted_ =
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        mount("tmpfs", path_.c_str(), "tmpfs", 0, absl::StrCat("size=", kSmallBytes).c_str()) == 0;
    if (!mounted_) options_.prepare = [] { LimitFiles(kSmallBytes); };
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  const ProcessOptions& options() const { return options_; }
  const char* kind() const { return mounted_ ? "a file system of 1 MiB" : "a limit of 1 MiB"; }

 private:
  const std::string path_;
  bool mounted_ = false;
  ProcessOptions options_;
};

TEST(FullDisk, LeavesNothingBehind) {
  TempFolder temp;
  const std::string config = WriteConfig(temp, Family::kChatGlm2);
  const std::string checkpoint = Fixture("chatglm2");
  const SmallDisk disk(temp / "disk");
  RecordProperty("disk", disk.kind());
  for (const Arguments& command : {Arguments{"synth", "--config", config, "--dtype", "int4"},
                                   Arguments{"convert", checkpoint, "--dtype", "f32"}}) {
    const ProcessResult result = Qianyi(command + Arguments{temp / "disk/model"}, disk.options());
    EXPECT_TRUE(Fails(result, 1, {"disk/model", "The model needs", "are free", "elsewhere"}))
        << disk.kind();
    EXPECT_EQ(NamesIn(temp / "disk"), std::vector<std::string>{}) << command[0];
  }
  // What fits is written, there too.
  const ProcessResult small =
      Qianyi({"convert", checkpoint, temp / "disk/model", "--dtype", "int4"}, disk.options());
  EXPECT_EQ(small.exit_code, 0) << small.err;
}

TEST(FullDisk, FilesThatMayNotGrow) {
  TempFolder temp;
  const std::string config = WriteConfig(temp, Family::kBlockLm);
  const std::vector<std::string> before = temp.Names();
  for (const size_t limit : {size_t{0}, size_t{4096}, size_t{1000000}}) {
    ProcessOptions options;
    // Its own messages go to a file as well: leave room for them.
    options.prepare = [limit] { LimitFiles(std::max<size_t>(limit, 2048)); };
    EXPECT_TRUE(Fails(Qianyi({"synth", "--config", config, temp / "model"}, options), 1,
                      {temp / "model", "ulimit -f", "The model needs"}));
    EXPECT_TRUE(
        Fails(Qianyi({"convert", Fixture("chatglm2"), temp / "model", "--dtype", "f32"}, options),
              1, {temp / "model", "ulimit -f"}));
    EXPECT_EQ(temp.Names(), before);
  }
}

class GoneReader : public ::testing::Test {
 protected:
  GoneReader() : config_(WriteConfig(temp_, Family::kChatGlm2)) {
    commands_ = {
        {"generate", "--synth", config_, "--prompt-ids", "5,6", "--max-tokens", "300"},
        {"plan", "--config", config_, "--host-bandwidth", "1GB/s", "--compute", "1e12"},
        {"plan", "--config", config_, "--host-bandwidth", "1GB/s", "--compute", "1e12", "--json"},
        {"verify", Fixture("chatglm2")},
        {"bench", "io", config_},
        {"--help"},
        {"generate", "--help"},
        {"--version"}};
  }
  void ExpectComplaint(const ProcessOptions& options) {
    for (const Arguments& command : commands_) {
      const ProcessResult result = Qianyi(command, options);
      EXPECT_EQ(result.exit_code, 1) << command[0] << " signal " << result.signal << result.err;
      EXPECT_TRUE(absl::StrContains(result.err, "cannot write to standard output"))
          << command[0] << result.err;
    }
  }

  TempFolder temp_;
  std::string config_;
  std::vector<Arguments> commands_;
};

TEST_F(GoneReader, OfAPipe) {
  ProcessOptions options;
  options.keep_out = false;
  ExpectComplaint(options);
}

TEST_F(GoneReader, AFullDisk) {
  ProcessOptions options;
  options.prepare = [] { dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); };
  ExpectComplaint(options);
}

TEST_F(GoneReader, NoStandardOutputAtAll) {
  ProcessOptions options;
  options.prepare = [] { close(STDOUT_FILENO); };
  ExpectComplaint(options);
}

// Files that are opened must not become the standard streams, or progress would land in them.
TEST(NoStreams, AreNotTakenByOurFiles) {
  TempFolder temp;
  ProcessOptions options;
  options.prepare = [] {
    for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) close(fd);
  };
  const std::string source = Fixture("chatglm2");
  EXPECT_EQ(Qianyi({"convert", source, temp / "silent"}, options).exit_code, 0);
  Output({"convert", source, temp / "normal"});
  EXPECT_EQ(ReadText(temp / "silent/model.safetensors"),
            ReadText(temp / "normal/model.safetensors"));
  EXPECT_EQ(
      Qianyi({"generate", "--model", temp / "silent", "--prompt-ids", "5"}, options).exit_code, 1);
}

// 700 MB: long enough to be interrupted.
constexpr char kLarge[] =
    R"({"model_type":"chatglm","num_layers":4,"hidden_size":2048,"ffn_hidden_size":4096,)"
    R"("num_attention_heads":16,"multi_query_group_num":2,"kv_channels":128,)"
    R"("padded_vocab_size":4096,"seq_length":64,"add_qkv_bias":false})";

class Signals : public ::testing::TestWithParam<int> {
 protected:
  // Starts the command, waits until it writes beside `destination`, and sends the signal.
  void Interrupt(const Arguments& command) {
    const size_t before = temp_.Names().size();
    Process process(Arguments{ProgramPath()} + command + Arguments{temp_ / "model"}, {});
    while (process.running() && temp_.Names().size() == before) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ASSERT_TRUE(process.running()) << process.Wait().err;
    process.Signal(GetParam());
    const ProcessResult result = process.Wait();
    EXPECT_FALSE(fs::exists(temp_ / "model"));
    EXPECT_NE(result.exit_code, 0);
    EXPECT_TRUE(result.signal == GetParam() || result.exit_code > 0) << result.err;
    EXPECT_EQ(result.out, "");
  }

  TempFolder temp_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Signals, ::testing::Values(SIGTERM, SIGINT, SIGKILL),
                         [](const auto& of) { return std::string(strsignal(of.param)); });

TEST_P(Signals, DuringSynthLeaveNoModel) {
  WriteText(temp_ / "large.json", kLarge);
  Interrupt({"synth", "--config", temp_ / "large.json", "--dtype", "f32"});
  // Whatever is left does not stand in the way of the next try.
  const std::string config = WriteConfig(temp_, Family::kChatGlm2);
  Output({"synth", "--config", config, temp_ / "model"});
  EXPECT_EQ(
      Qianyi({"generate", "--model", temp_ / "model", "--prompt-ids", "5", "--max-tokens", "1"})
          .exit_code,
      0);
}

TEST_P(Signals, DuringConvertLeaveNoModel) {
  // A sparse file stands for a large checkpoint.
  const std::string source = temp_ / "source";
  fs::create_directory(source);
  WriteText(source + "/config.json", kLarge);
  WriteZeroSafetensors(source + "/model.safetensors", "F32", 4,
                       ChatGlm2Tensors(nlohmann::json::parse(kLarge)));
  Interrupt({"convert", source, "--dtype", "int8"});
  Output({"convert", Fixture("chatglm2"), temp_ / "model"});
}

// Killed at several moments, and run again until it is done.
TEST(Resuming, GivesTheSameBytesAsWithoutAnInterruption) {
  TempFolder temp;
  const std::string source = temp / "source";
  const json config = {{"model_type", "chatglm"},  {"num_layers", 4},
                       {"hidden_size", 512},       {"ffn_hidden_size", 2048},
                       {"num_attention_heads", 8}, {"multi_query_group_num", 2},
                       {"kv_channels", 64},        {"padded_vocab_size", 4096},
                       {"seq_length", 64},         {"add_qkv_bias", false}};
  fs::create_directory(source);
  WriteText(source + "/config.json", config.dump());
  const auto write_weights = [&](float scale) {
    std::vector<TestTensor> tensors;
    float value = 0;
    for (const TestShape& shape : ChatGlm2Tensors(config)) {
      size_t count = 1;
      for (const int64_t size : shape.shape) count *= size;
      std::vector<float> values(count);
      for (float& weight : values) weight = scale * (value = value < 1 ? value + 0.0137f : -1);
      tensors.push_back(BF16Tensor(shape.name, shape.shape, values));
    }
    WriteText(source + "/model.safetensors", SafetensorsText(tensors));
  };
  write_weights(1);
  const Arguments convert = {"convert",   source, temp / "model", "--dtype", "int4",
                             "--threads", "1"};
  Output({"convert", source, temp / "whole", "--dtype", "int4"});
  const std::string journal = temp / ".model.partial/progress";
  // Until so many records are there.
  const auto kill_at = [&](size_t bytes) {
    Process process(Arguments{ProgramPath()} + convert, {});
    std::error_code none;
    while (process.running() && !(fs::file_size(journal, none) >= bytes && !none)) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    process.Signal(SIGKILL);
    process.Wait();
  };
  kill_at(42 + 16);
  kill_at(42 + 5 * 16);
  ASSERT_FALSE(fs::exists(temp / "model"));
  ASSERT_TRUE(fs::exists(journal));
  const ProcessResult result = Qianyi(convert);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "cut off")) << result.err;
  EXPECT_TRUE(ReadText(temp / "model/model.safetensors") ==
              ReadText(temp / "whole/model.safetensors"));
  EXPECT_EQ(temp.Names(), (std::vector<std::string>{"model", "source", "whole"}));

  // Other weights of the same shapes, or another format: nothing is taken from before.
  fs::remove_all(temp / "model");
  kill_at(42 + 3 * 16);
  write_weights(0.5);
  ProcessResult other = Qianyi(convert);
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_FALSE(absl::StrContains(other.err, "cut off")) << other.err;
  Output({"convert", source, temp / "halved", "--dtype", "int4"});
  EXPECT_TRUE(ReadText(temp / "model/model.safetensors") ==
              ReadText(temp / "halved/model.safetensors"));
  fs::remove_all(temp / "model");
  kill_at(42 + 3 * 16);
  other = Qianyi({"convert", source, temp / "model", "--dtype", "int8"});
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_FALSE(absl::StrContains(other.err, "cut off")) << other.err;
}

}  // namespace
}  // namespace qianyi::testing
