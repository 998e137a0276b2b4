#include "runtime/checkpoints/gguf.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/checkpoints/gguf_tokenizer.h"
#include "runtime/models/gguf_config.h"
#include "runtime/models/registry.h"
#include "runtime/storage/checkpoint.h"
#include "runtime/tokenizers/tokenizer.h"
#include "tests/runtime/storage/storage_testing.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::ReadText;

const std::string kFolder = qianyi::testing::FixturePath("gguf/");

absl::StatusOr<Gguf> Parse(const std::string& text) { return Gguf::Read(MemoryBytes(text)); }

template <typename Number>
std::string Raw(Number value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}
std::string Text(const std::string& text) { return Raw<uint64_t>(text.size()) + text; }
std::string Head(uint64_t tensors, uint64_t metadata, uint32_t version = 3) {
  return "GGUF" + Raw(version) + Raw(tensors) + Raw(metadata);
}

// Random blocks of all formats, and what the reference reader makes of them.
TEST(Gguf, BlocksHaveTheValuesOfTheReferenceReader) {
  const std::string path = kFolder + "blocks.gguf";
  const absl::StatusOr<Gguf> gguf = Parse(ReadText(path));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  int formats = 0;
  for (const testing::TestTensor& expected :
       testing::ReadSafetensors(kFolder + "blocks.safetensors")) {
    const SourceTensor* tensor = gguf->Find(expected.name);
    ASSERT_NE(tensor, nullptr) << expected.name;
    EXPECT_EQ(tensor->dtype, expected.name);
    ASSERT_EQ(tensor->shape, expected.shape) << expected.name;
    const std::vector<float> want = testing::FloatsOf(expected);
    std::vector<float> got(want.size());
    ASSERT_OK(ReadFloatRows(path, *tensor, 0, tensor->rows(), got.data()));
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 1e-6f * std::abs(want[i])) << expected.name << " " << i;
    }
    // A row from the middle.
    ASSERT_OK(ReadFloatRows(path, *tensor, 1, 1, got.data()));
    EXPECT_EQ(got[5], want[tensor->row_elements() + 5]) << expected.name;
    ++formats;
  }
  EXPECT_EQ(formats, 10);
}

TEST(Gguf, ReadsMetadataOfEveryType) {
  const absl::StatusOr<Gguf> gguf = Parse(
      Head(0, 14) + Text("u8") + Raw<uint32_t>(0) + Raw<uint8_t>(200) + Text("i8") +
      Raw<uint32_t>(1) + Raw<int8_t>(-2) + Text("u16") + Raw<uint32_t>(2) + Raw<uint16_t>(60000) +
      Text("i16") + Raw<uint32_t>(3) + Raw<int16_t>(-300) + Text("u32") + Raw<uint32_t>(4) +
      Raw<uint32_t>(4000000000) + Text("i32") + Raw<uint32_t>(5) + Raw<int32_t>(-5) + Text("f32") +
      Raw<uint32_t>(6) + Raw(0.5f) + Text("bool") + Raw<uint32_t>(7) + Raw<uint8_t>(1) +
      Text("text") + Raw<uint32_t>(8) + Text("words") + Text("u64") + Raw<uint32_t>(10) +
      Raw<uint64_t>(1ull << 40) + Text("i64") + Raw<uint32_t>(11) + Raw<int64_t>(-7) + Text("f64") +
      Raw<uint32_t>(12) + Raw(0.25) + Text("texts") + Raw<uint32_t>(9) + Raw<uint32_t>(8) +
      Raw<uint64_t>(2) + Text("a") + Text("") + Text("ints") + Raw<uint32_t>(9) + Raw<uint32_t>(5) +
      Raw<uint64_t>(2) + Raw<int32_t>(3) + Raw<int32_t>(-4));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->Int("u8"), 200);
  EXPECT_EQ(gguf->Int("i8"), -2);
  EXPECT_EQ(gguf->Int("u16"), 60000);
  EXPECT_EQ(gguf->Int("i16"), -300);
  EXPECT_EQ(gguf->Int("u32"), 4000000000);
  EXPECT_EQ(gguf->Int("i32"), -5);
  EXPECT_EQ(gguf->Number("f32"), 0.5);
  EXPECT_EQ(gguf->Int("bool"), 1);
  EXPECT_EQ(gguf->Text("text"), "words");
  EXPECT_EQ(gguf->Int("u64"), int64_t{1} << 40);
  EXPECT_EQ(gguf->Int("i64"), -7);
  EXPECT_EQ(gguf->Number("f64"), 0.25);
  EXPECT_EQ(*gguf->Texts("texts"), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(*gguf->Ints("ints"), (std::vector<int64_t>{3, -4}));
  EXPECT_EQ(gguf->Int("text"), std::nullopt);
  EXPECT_EQ(gguf->Text("none"), "");
}

std::string Tensor(const std::string& name, std::vector<int64_t> innermost_first, uint32_t type,
                   uint64_t offset) {
  std::string text = Text(name) + Raw(static_cast<uint32_t>(innermost_first.size()));
  for (const int64_t size : innermost_first) text += Raw(size);
  return text + Raw(type) + Raw(offset);
}

TEST(Gguf, RefusesWhatLies) {
  const auto refused = [](const std::string& text, StatusCode code, const char* words) {
    EXPECT_TRUE(FailsWith(Parse(text).status(), code, words));
  };
  const StatusCode bad = StatusCode::kInvalidArgument, early = StatusCode::kOutOfRange;
  refused("", early, "truncated");
  refused("GGUF", early, "truncated");
  refused("GGML" + std::string(40, '\0'), bad, "is no GGUF");
  refused(Head(0, 0, 1), bad, "version 1");
  refused(Head(0, 0, 0x03000000), bad, "big-endian");
  refused(Head(1ull << 60, 0), bad, "claims");
  refused(Head(0, 1ull << 60), bad, "claims");
  refused(Head(0, 1) + Raw<uint64_t>(UINT64_MAX), bad, "a key of");
  refused(Head(0, 1) + Text("k") + Raw<uint32_t>(8) + Raw<uint64_t>(UINT64_MAX), bad, "a text of");
  refused(Head(0, 1) + Text("k") + Raw<uint32_t>(8) + Raw<uint64_t>(1000), early, "truncated");
  refused(Head(0, 1) + Text("k") + Raw<uint32_t>(13), bad, "unknown type 13");
  refused(Head(0, 1) + Text("k") + Raw<uint32_t>(9) + Raw<uint32_t>(9) + Raw<uint64_t>(1), bad,
          "a list of type 9");
  for (const uint32_t type : {0u, 5u, 6u, 8u, 10u, 12u}) {
    for (const uint64_t count : {uint64_t{1} << 62, UINT64_MAX, uint64_t{100}}) {
      refused(Head(0, 1) + Text("k") + Raw<uint32_t>(9) + Raw(type) + Raw(count), early,
              "truncated");
    }
  }
  const std::string twice = Text("k") + Raw<uint32_t>(0) + Raw<uint8_t>(1);
  refused(Head(0, 2) + twice + twice, bad, "twice");
  const auto tensors = [&](const std::string& text, uint64_t count = 1) {
    return Head(count, 0) + text + std::string(4096, '\0');
  };
  EXPECT_OK(Parse(tensors(Tensor("w", {32, 2}, 0, 64))).status());
  refused(tensors(Tensor("w", {32, 2}, 0, 3)), bad, "no multiple of 32");
  refused(tensors(Tensor("w", {32, 2}, 0, UINT64_MAX - 31)), early, "beyond");
  refused(tensors(Tensor("w", {32, 2}, 0, 1 << 20)), early, "truncated");
  refused(tensors(Tensor("w", {int64_t{1} << 40, int64_t{1} << 40}, 0, 0)), bad, "too large");
  refused(tensors(Tensor("w", {-1}, 0, 0)), bad, "too large");
  refused(tensors(Tensor("w", {33}, 8, 0)), bad, "no whole blocks");
  refused(tensors(Tensor("w", {1, 1, 1, 1, 1}, 0, 0)), bad, "5 dimensions");
  refused(tensors(Tensor("w", {256}, 10, 0)), bad, "is Q2_K; read are F32");
  refused(tensors(Tensor("w", {256}, 77, 0)), bad, "ggml type 77");
  refused(tensors(Tensor("w", {32}, 0, 0) + Tensor("w", {32}, 0, 0), 2), bad, "twice");
  refused(Head(0, 1) + Text("general.alignment") + Raw<uint32_t>(4) + Raw<uint32_t>(0), bad,
          "general.alignment");
}

TEST(Gguf, CutShortIsRefused) {
  const std::string good = ReadText(kFolder + "q8_0/model.gguf");
  for (size_t size = 0; size < good.size(); size += size < 4000 ? 37 : 9973) {
    EXPECT_FALSE(Parse(good.substr(0, size)).ok()) << size;
  }
}

TEST(Gguf, TokenizersAreTheOnesTheyCameFrom) {
  const auto tokenizer = [](const std::string& gguf_path, const std::string& folder) {
    const absl::StatusOr<Gguf> gguf = Parse(ReadText(gguf_path));
    EXPECT_TRUE(gguf.ok()) << gguf.status();
    const auto files = TokenizerFiles(*gguf);
    EXPECT_TRUE(files.ok()) << files.status();
    for (const auto& [name, text] : *files) testing::WriteText(folder + "/" + name, text);
    auto opened = OpenTokenizer(folder);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  };
  const std::string originals = qianyi::testing::FixturePath("glm-tokenizers/");
  for (const auto& [gguf, original, name] :
       {std::tuple{"chatglm/one/tiny.gguf", "tokenizer.json", "tokenizer.json"},
        std::tuple{"spm/tiny.gguf", "chatglm.model", "tokenizer.model"}}) {
    testing::TempFolder made, own;
    testing::WriteText(own / name, ReadText(originals + original));
    const auto ours = tokenizer(kFolder + gguf, made.path());
    const auto theirs = OpenTokenizer(own.path());
    ASSERT_TRUE(ours != nullptr && theirs.ok()) << theirs.status();
    for (const char* text :
         {"", "The server streams weights, it's 2024.", "服务器从磁盘上一层一层地读入权重。",
          "  a\n\n b\t𝒳 👍", "<|user|>\n你好<|assistant|>", "[gMASK]<sop>x</s>"}) {
      const auto a = ours->Encode(text, true), b = (*theirs)->Encode(text, true);
      ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
      EXPECT_EQ(*a, *b) << name << ": " << text;
    }
    EXPECT_EQ(ours->CommandId("gMASK"), (*theirs)->CommandId("gMASK"));
  }
}

TEST(Gguf, ConfigIsThatOfTheModel) {
  const absl::StatusOr<Gguf> gguf = Parse(ReadText(kFolder + "chatglm/one/tiny.gguf"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const absl::StatusOr<std::string> config = ConfigFromGguf(*gguf);
  ASSERT_TRUE(config.ok()) << config.status();
  const nlohmann::json got = nlohmann::json::parse(*config);
  const nlohmann::json want =
      nlohmann::json::parse(ReadText(kFolder + "chatglm/safetensors/config.json"));
  for (const auto& [field, value] : want.items()) EXPECT_EQ(got[field], value) << field;
  EXPECT_EQ(got["eos_token_id"], (nlohmann::json{700, 707, 709}));

  Gguf other = *gguf;
  other.metadata["general.architecture"] = std::string("llama");
  EXPECT_TRUE(FailsWith(ConfigFromGguf(other).status(), StatusCode::kInvalidArgument,
                        "general.architecture is 'llama'; those that can be read are chatglm"));
  other = *gguf;
  other.metadata.erase("chatglm.block_count");
  EXPECT_TRUE(FailsWith(ConfigFromGguf(other).status(), StatusCode::kInvalidArgument,
                        "lacks the metadata chatglm.block_count"));
  other = *gguf;
  other.metadata["chatglm.block_count"] = int64_t{-4};
  EXPECT_TRUE(FailsWith(ConfigFromGguf(other).status(), StatusCode::kInvalidArgument,
                        "chatglm.block_count = -4"));
  other = *gguf;
  other.metadata["chatglm.rope.dimension_count"] = int64_t{8};
  EXPECT_TRUE(FailsWith(ConfigFromGguf(other).status(), StatusCode::kInvalidArgument,
                        "rope.dimension_count = 8; only 4"));
}

}  // namespace
}  // namespace qianyi
