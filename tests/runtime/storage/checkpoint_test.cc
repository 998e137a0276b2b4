#include "runtime/storage/checkpoint.h"

#include <filesystem>
#include <string>
#include <vector>

#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::TempFolder;

std::string OneTensor(const std::string& name, float value) {
  return testing::SafetensorsText({testing::F32Tensor(name, {1}, {value})});
}

float ValueOf(const Checkpoint& checkpoint, const std::string& name) {
  const std::vector<TensorPlace> places = checkpoint.Find(name);
  float value = -1;
  EXPECT_EQ(places.size(), 1u) << name;
  if (places.size() == 1) {
    EXPECT_OK(ReadFloatRows(places[0].file->path, *places[0].tensor, 0, 1, &value));
  }
  return value;
}

TEST(Checkpoint, FindsTensorsOverShards) {
  TempFolder folder;
  testing::WriteText(folder / "model-00001-of-00002.safetensors",
                     testing::SafetensorsText(
                         {testing::F32Tensor("a", {1}, {1}), testing::F32Tensor("b", {1}, {2})}));
  testing::WriteText(folder / "model-00002-of-00002.safetensors", OneTensor("c", 3));
  testing::WriteText(folder / "model.safetensors.index.json",
                     R"({"metadata":{"total_size":12},"weight_map":{)"
                     R"("a":"model-00001-of-00002.safetensors",)"
                     R"("b":"model-00001-of-00002.safetensors",)"
                     R"("c":"model-00002-of-00002.safetensors"}})");
  const absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->files().size(), 2u);
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(ValueOf(*checkpoint, "a"), 1);
  EXPECT_EQ(ValueOf(*checkpoint, "b"), 2);
  EXPECT_EQ(ValueOf(*checkpoint, "c"), 3);
  EXPECT_TRUE(checkpoint->Find("d").empty());

  std::filesystem::remove(folder / "model-00002-of-00002.safetensors");
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder.path()).status(), StatusCode::kNotFound,
                        "model-00002-of-00002.safetensors"));
  testing::WriteText(folder / "model-00002-of-00002.safetensors", OneTensor("other", 3));
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder.path()).status(), StatusCode::kInvalidArgument,
                        "has tensor 'c', but it does not"));
}

TEST(Checkpoint, TakesWhatAFolderHas) {
  TempFolder folder;
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder.path()).status(), StatusCode::kNotFound,
                        "has no .safetensors, .gguf, .bin, .pt or .pth file"));
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder / "none").status(), StatusCode::kNotFound,
                        folder / "none"));
  testing::WriteText(folder / "any.safetensors", OneTensor("w", 1));
  EXPECT_EQ(ValueOf(*Checkpoint::Open(folder.path()), "w"), 1);
  testing::WriteText(folder / "more.safetensors", OneTensor("w", 2));
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder.path()).status(), StatusCode::kInvalidArgument,
                        "any.safetensors, more.safetensors"));
  EXPECT_EQ(ValueOf(*Checkpoint::Open(folder / "more.safetensors"), "w"), 2);
  testing::WriteText(folder / "weights.safetensors", OneTensor("w", 3));
  EXPECT_EQ(ValueOf(*Checkpoint::Open(folder.path()), "w"), 3);
  testing::WriteText(folder / "model.safetensors", OneTensor("w", 4));
  EXPECT_EQ(ValueOf(*Checkpoint::Open(folder.path()), "w"), 4);
  testing::WriteText(folder / "model.safetensors", "no");
  EXPECT_TRUE(FailsWith(Checkpoint::Open(folder.path()).status(), StatusCode::kOutOfRange,
                        folder / "model.safetensors"));
}

TEST(ParseShardIndex, RefusesWhatIsNoIndex) {
  for (const char* text :
       {"", "[]", "{", "{}", "3", R"({"weight_map":[]})", R"({"weight_map":3})", "\xff"}) {
    EXPECT_TRUE(FailsWith(ParseShardIndex(text, "i.json").status(), StatusCode::kInvalidArgument,
                          "i.json: is not a JSON object with an object 'weight_map'"))
        << text;
  }
  EXPECT_TRUE(FailsWith(ParseShardIndex(R"({"weight_map":{"a":1}})", "i.json").status(),
                        StatusCode::kInvalidArgument, "weight_map['a'] is not a string"));
  const std::string deep = R"({"weight_map":{"a":)" + std::string(1'000'000, '[');
  EXPECT_FALSE(ParseShardIndex(deep, "i.json").ok());
  const std::string closed = deep + std::string(1'000'000, ']') + "}}";
  EXPECT_FALSE(ParseShardIndex(closed, "i.json").ok());
}

TEST(ParseShardIndex, RefusesPathsThatLeaveTheFolder) {
  for (const char* shard :
       {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\\\x.safetensors", "..",
        "", ".safetensors", ".x.safetensors", "x.bin", "x.safetensors\\u0000", "x.safetensors/"}) {
    const std::string text = std::string(R"({"weight_map":{"a":")") + shard + R"("}})";
    EXPECT_TRUE(FailsWith(ParseShardIndex(text, "i.json").status(), StatusCode::kInvalidArgument,
                          "must be the plain name"))
        << shard;
  }
  const auto good = ParseShardIndex(R"({"weight_map":{"a":"x..y.safetensors"}})", "i.json");
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->at("a"), "x..y.safetensors");
}

}  // namespace
}  // namespace qianyi
