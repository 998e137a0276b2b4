#include "runtime/checkpoints/torch_file.h"

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/checkpoints/byte_source.h"
#include "runtime/checkpoints/zip.h"
#include "tests/runtime/storage/storage_testing.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::ReadText;

const std::string kTorchFolder = qianyi::testing::FixturePath("torch-checkpoints/");

absl::StatusOr<std::vector<SourceTensor>> ParseTorch(const std::string& text) {
  return ReadTorchContents(MemoryBytes(text));
}

// The values of a file's tensors by name; names without what wraps them.
std::map<std::string, std::vector<float>> Values(const std::string& path) {
  const absl::StatusOr<FileBytes> file = FileBytes::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  const auto tensors = ReadTorchContents(*file);
  EXPECT_TRUE(tensors.ok()) << path << tensors.status();
  std::map<std::string, std::vector<float>> values;
  if (!tensors.ok()) return values;
  for (const SourceTensor& tensor : *tensors) {
    std::vector<float> floats(tensor.elements());
    EXPECT_OK(ReadFloatRows(path, tensor, 0, tensor.rows(), floats.data()));
    values[tensor.name] = floats;
    // Row by row it is the same.
    std::vector<float> row(tensor.row_elements());
    for (int64_t r = 0; r < tensor.rows(); ++r) {
      EXPECT_OK(ReadFloatRows(path, tensor, r, 1, row.data()));
      EXPECT_TRUE(std::equal(row.begin(), row.end(), floats.begin() + r * tensor.row_elements()))
          << tensor.name << " row " << r;
    }
  }
  return values;
}

std::map<std::string, std::vector<float>> Expected() {
  std::map<std::string, std::vector<float>> values;
  for (const testing::TestTensor& tensor :
       testing::ReadSafetensors(kTorchFolder + "safetensors/model.safetensors")) {
    values[tensor.name] = testing::FloatsOf(tensor);
  }
  return values;
}

TEST(TorchFile, EveryFormHasTheSameValues) {
  const auto expected = Expected();
  ASSERT_EQ(expected.size(), 17u);
  for (const char* name :
       {"bin/pytorch_model.bin", "bin-f16/pytorch_model.bin", "bin-bf16/pytorch_model.bin"}) {
    EXPECT_EQ(Values(kTorchFolder + name), expected) << name;
  }
  auto views = Values(kTorchFolder + "views/model.pt");
  EXPECT_EQ(views["tied.weight"], views["word_embeddings.weight"]);
  views.erase("tied.weight");
  EXPECT_EQ(views, expected);
  std::map<std::string, std::vector<float>> wrapped;
  for (const auto& [name, values] : expected) wrapped["module." + name] = values;
  EXPECT_EQ(Values(kTorchFolder + "legacy/model.pt"), wrapped);
}

TEST(TorchFile, TakesTheModelOutOfATrainingState) {
  const auto values = Values(kTorchFolder + "ranks/49300/mp_rank_01_model_states.pt");
  EXPECT_EQ(values.size(), 17u);
  EXPECT_EQ(values.count("torch_rng_state"), 0u);
}

// Files that call os.system and the like when they are loaded the usual way.
TEST(TorchFile, CallsNothingAndSaysWhatItWasAskedFor) {
  const std::map<std::string, std::string> asked = {{"system", "posix.system"},
                                                    {"eval", "eval'"},
                                                    {"import", "__import__'"},
                                                    {"exit", "_exit'"},
                                                    {"popen", "os.popen'"}};
  for (const auto& [name, words] : asked) {
    for (const char* form : {".pt", "-legacy.pt"}) {
      const absl::Status status =
          ParseTorch(ReadText(kTorchFolder + "hostile/" + name + form)).status();
      EXPECT_TRUE(FailsWith(status, StatusCode::kInvalidArgument, "opcode GLOBAL")) << name << form;
      EXPECT_TRUE(FailsWith(status, StatusCode::kInvalidArgument, words)) << name << form;
    }
  }
  EXPECT_TRUE(FailsWith(ParseTorch(ReadText(kTorchFolder + "hostile/object.pkl")).status(),
                        StatusCode::kInvalidArgument, "'argparse.Namespace'"));
}

TEST(TorchFile, CutShortIsRefused) {
  for (const char* name : {"bin/pytorch_model.bin", "legacy/model.pt"}) {
    const std::string good = ReadText(kTorchFolder + name);
    for (size_t size = 0; size < good.size(); size += size < 3000 ? 97 : 1999) {
      EXPECT_FALSE(ParseTorch(good.substr(0, size)).ok()) << name << " " << size;
    }
  }
}

TEST(TorchFile, FlippedBytesNeverReachOutside) {
  for (const char* name : {"bin/pytorch_model.bin", "views/model.pt", "legacy/model.pt"}) {
    const std::string good = ReadText(kTorchFolder + name);
    for (size_t at = 0; at < good.size(); at += at < 6000 ? 7 : 101) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ 0x5a);
      const auto tensors = ParseTorch(bad);
      if (!tensors.ok()) continue;
      for (const SourceTensor& tensor : *tensors) EXPECT_OK(CheckPlace(tensor, bad.size()));
    }
  }
}

TEST(Zip, RefusesWhatIsCompressedOrElsewhere) {
  std::string good = ReadText(kTorchFolder + "bin/pytorch_model.bin");
  ASSERT_TRUE(ReadZipContents(MemoryBytes(good)).ok());
  const size_t directory = good.find("PK\x01\x02");
  ASSERT_NE(directory, good.npos);
  const auto with = [&](size_t offset, uint32_t value, size_t bytes) {
    std::string bad = good;
    std::memcpy(bad.data() + directory + offset, &value, bytes);
    return ReadZipContents(MemoryBytes(bad)).status();
  };
  EXPECT_TRUE(FailsWith(with(10, 8, 2), StatusCode::kInvalidArgument, "compressed (method 8)"));
  EXPECT_TRUE(FailsWith(with(8, 1, 2), StatusCode::kInvalidArgument, "encrypted"));
  EXPECT_TRUE(FailsWith(with(24, 5, 4), StatusCode::kInvalidArgument, "stored in"));
  EXPECT_TRUE(FailsWith(with(42, 0x7fffffff, 4), StatusCode::kOutOfRange, "are not there"));
  EXPECT_TRUE(FailsWith(with(42, 4, 4), StatusCode::kInvalidArgument, "has no header"));
  EXPECT_TRUE(FailsWith(with(28, 0xffff, 2), StatusCode::kInvalidArgument, "inside an entry"));
  EXPECT_TRUE(FailsWith(ReadZipContents(MemoryBytes("PK\x03\x04")).status(),
                        StatusCode::kInvalidArgument, "no sound zip"));
}

TEST(CheckPlace, CountsWithoutOverflow) {
  const int64_t huge = int64_t{1} << 40;
  const auto place = [](std::vector<int64_t> shape, std::vector<int64_t> strides, uint64_t begin) {
    return CheckPlace({.name = "w",
                       .dtype = "F32",
                       .shape = std::move(shape),
                       .strides = std::move(strides),
                       .begin = begin},
                      1000);
  };
  EXPECT_OK(place({250}, {}, 0));
  EXPECT_OK(place({}, {}, 996));
  EXPECT_OK(place({0, huge}, {}, 0));
  EXPECT_OK(place({3, 5}, {1, 3}, 940));
  EXPECT_OK(place({huge, 1}, {0, 1}, 0));  // one element, seen often
  EXPECT_FALSE(place({251}, {}, 0).ok());
  EXPECT_FALSE(place({}, {}, 997).ok());
  EXPECT_FALSE(place({3, 5}, {1, 3}, 944).ok());
  EXPECT_FALSE(place({huge, huge}, {}, 0).ok());
  EXPECT_FALSE(place({2, 2}, {INT64_MAX, 1}, 0).ok());
  EXPECT_FALSE(place({2, 2}, {INT64_MAX / 2, INT64_MAX / 2 + 9}, 0).ok());
  EXPECT_FALSE(place({-1}, {}, 0).ok());
  EXPECT_FALSE(place({2}, {-1}, 8).ok());
  EXPECT_FALSE(place({2}, {1, 1}, 0).ok());
  EXPECT_FALSE(place({1}, {}, UINT64_MAX).ok());
  EXPECT_FALSE(CheckPlace({.name = "w", .dtype = "F7"}, 1000).ok());
  EXPECT_FALSE(CheckPlace({.name = "w", .dtype = "Q8_0", .shape = {33}}, 1000).ok());
  EXPECT_OK(CheckPlace({.name = "w", .dtype = "Q8_0", .shape = {2, 32}}, 68));
}

}  // namespace
}  // namespace qianyi
