#include "runtime/storage/safetensors.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/packed.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::TempFolder;
using testing::TestTensor;

absl::Status ParseStatus(const std::string& text) {
  return Safetensors::Parse(text, text.size(), "x.safetensors").status();
}

TEST(Safetensors, ReadsEveryKindOfNumber) {
  TempFolder folder;
  const std::vector<float> floats = {1.5f, -2.25f, 1e-3f, 65504.0f};
  std::string halves, bfloats;
  for (const float value : floats) {
    const uint16_t half = FloatToHalf(value), bfloat = FloatToBFloat16(value);
    halves.append(reinterpret_cast<const char*>(&half), 2);
    bfloats.append(reinterpret_cast<const char*>(&bfloat), 2);
  }
  const int32_t ints[] = {-7, 1 << 30};
  const int64_t longs[] = {int64_t{-1} << 40, 5};
  const std::string path = folder / "all.safetensors";
  testing::WriteText(
      path, testing::SafetensorsText(
                {testing::F32Tensor("f32", {2, 2}, floats),
                 {"f16", "F16", {4}, halves},
                 {"bf16", "BF16", {4, 1}, bfloats},
                 {"i32", "I32", {2}, std::string(reinterpret_cast<const char*>(ints), 8)},
                 {"i64", "I64", {2}, std::string(reinterpret_cast<const char*>(longs), 16)},
                 {"u8", "U8", {2}, std::string("\x01\xff", 2)},
                 {"i8", "I8", {2}, std::string("\x01\xff", 2)},
                 {"scalar", "F32", {}, std::string("\0\0\x80\x3f", 4)},
                 {"empty", "F32", {0, 7}, ""}},
                R"({"format":"pt","who":"\u4eba"})"));
  const absl::StatusOr<Safetensors> file = Safetensors::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->entries().size(), 9u);
  EXPECT_EQ(file->metadata().at("who"), "人");
  EXPECT_EQ(file->file_bytes(), std::filesystem::file_size(path));

  EXPECT_EQ(*file->ReadFloats("f32"), floats);
  const std::vector<float> f16 = *file->ReadFloats("f16"), bf16 = *file->ReadFloats("bf16");
  for (size_t i = 0; i < floats.size(); ++i) {
    EXPECT_EQ(f16[i], HalfToFloat(FloatToHalf(floats[i])));
    EXPECT_EQ(bf16[i], BFloat16ToFloat(FloatToBFloat16(floats[i])));
  }
  EXPECT_EQ(*file->ReadFloats("scalar"), (std::vector<float>{1.0f}));
  EXPECT_TRUE(file->ReadFloats("empty")->empty());
  EXPECT_EQ(*file->ReadIntegers("i32"), (std::vector<int64_t>{-7, 1 << 30}));
  EXPECT_EQ(*file->ReadIntegers("i64"), (std::vector<int64_t>{int64_t{-1} << 40, 5}));
  EXPECT_EQ(*file->ReadIntegers("u8"), (std::vector<int64_t>{1, 255}));
  EXPECT_EQ(*file->ReadIntegers("i8"), (std::vector<int64_t>{1, -1}));

  float two[2];
  ASSERT_OK(file->ReadFloats(*file->Find("f32"), 1, 2, two));
  EXPECT_EQ(two[0], floats[1]);
  EXPECT_EQ(two[1], floats[2]);
  EXPECT_TRUE(FailsWith(file->ReadFloats(*file->Find("f32"), 3, 2, two), StatusCode::kOutOfRange,
                        "'f32' has 4 elements"));
  EXPECT_TRUE(FailsWith(file->ReadFloats(*file->Find("f32"), -1, 2, two), StatusCode::kOutOfRange,
                        "'f32'"));
  EXPECT_EQ(file->Find("f3"), nullptr);
  EXPECT_TRUE(FailsWith(file->ReadFloats("nope").status(), StatusCode::kNotFound, "'nope'"));
  EXPECT_TRUE(FailsWith(file->ReadFloats("i32").status(), StatusCode::kInvalidArgument, "I32"));
  EXPECT_TRUE(FailsWith(file->ReadIntegers("f16").status(), StatusCode::kInvalidArgument, "F16"));
}

TEST(Safetensors, LargeTensorsAreReadInParts) {
  TempFolder folder;
  std::vector<float> values(300'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
  const std::string path = folder / "large.safetensors";
  testing::WriteText(path,
                     testing::SafetensorsText({testing::F32Tensor("w", {300, 1000}, values)}));
  const absl::StatusOr<Safetensors> file = Safetensors::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->ReadFloats("w"), values);
}

TEST(Safetensors, CopiesKeepTheirIndex) {
  const std::string text = testing::SafetensorsText(
      {{"b", "U8", {1}, "x"}, {"a", "U8", {2}, "yz"}, {"c", "U8", {0}, ""}});
  Safetensors copy;
  {
    const absl::StatusOr<Safetensors> file = Safetensors::Parse(text, text.size(), "f");
    ASSERT_TRUE(file.ok()) << file.status();
    copy = *file;
  }
  ASSERT_NE(copy.Find("a"), nullptr);
  EXPECT_EQ(copy.Find("a")->end, text.size());
  EXPECT_EQ(copy.Find("b")->end, copy.Find("a")->begin);
}

TEST(Safetensors, MissingFileAndFolderAreNamed) {
  TempFolder folder;
  EXPECT_TRUE(FailsWith(Safetensors::Open(folder / "none").status(), StatusCode::kNotFound,
                        folder / "none"));
  EXPECT_TRUE(FailsWith(Safetensors::Open(folder.path()).status(), StatusCode::kInvalidArgument,
                        "is a folder"));
}

struct Hostile {
  const char* name;
  std::string text;
  StatusCode code;
  const char* message;
};

std::string One(const std::string& fields, uint64_t data_bytes = 8) {
  return testing::WithHeader("{\"w\":{" + fields + "}}", data_bytes);
}

std::string Claiming(uint64_t header_bytes, const std::string& rest) {
  std::string text(8, '\0');
  std::memcpy(text.data(), &header_bytes, 8);
  return text + rest;
}

class HostileSafetensors : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileSafetensors, IsRefusedWithAReason) {
  const absl::Status status = ParseStatus(GetParam().text);
  EXPECT_LT(status.message().size(), 10'000u);
  EXPECT_TRUE(FailsWith(status, GetParam().code, GetParam().message));
  EXPECT_TRUE(FailsWith(status, GetParam().code, "x.safetensors: "));
  // The same through a file, where what is beyond the header is not in memory.
  TempFolder folder;
  testing::WriteText(folder / "x.safetensors", GetParam().text);
  EXPECT_TRUE(FailsWith(Safetensors::Open(folder / "x.safetensors").status(), GetParam().code,
                        GetParam().message));
}

constexpr StatusCode kBad = StatusCode::kInvalidArgument;
constexpr StatusCode kRange = StatusCode::kOutOfRange;

INSTANTIATE_TEST_SUITE_P(
    All, HostileSafetensors,
    ::testing::Values(
        Hostile{"Empty", "", kRange, "0 bytes, too few"},
        Hostile{"SevenBytes", "1234567", kRange, "7 bytes, too few"},
        Hostile{"HeaderOverLimit", Claiming(100'000'001, "{}"), kBad, "limit is 100000000"},
        Hostile{"HeaderOverflows", Claiming(UINT64_MAX - 3, "{}"), kBad, "18446744073709551612"},
        Hostile{"HeaderBeyondFile", Claiming(3, "{}"), kRange, "whole file has 10"},
        Hostile{"NoHeader", Claiming(0, ""), kBad, "does not begin with '{'"},
        Hostile{"NotJson", testing::WithHeader("{nope}", 0), kBad, "is not JSON"},
        Hostile{"List", testing::WithHeader("[]", 0), kBad, "does not begin with '{'"},
        Hostile{"LeadingSpace", testing::WithHeader(" {}", 0), kBad, "does not begin with '{'"},
        Hostile{"CutJson", testing::WithHeader("{\"w\":{\"dtype\"", 0), kBad, "is not JSON"},
        Hostile{"TwoValues", testing::WithHeader("{}{}", 0), kBad, "is not JSON"},
        Hostile{"BadUtf8", testing::WithHeader("{\"\xff\xfe\":{}}", 0), kBad, "is not JSON"},
        Hostile{"NulInHeader", testing::WithHeader(std::string("{}\0", 3), 0), kBad, "is not JSON"},
        Hostile{"DeepLists", testing::WithHeader("{\"w\":" + std::string(5'000'000, '['), 0), kBad,
                "has an array where"},
        Hostile{"DeepShape", One(R"("shape":[[[[[]]]]])"), kBad, "has an array where"},
        Hostile{"DeepObjects", One(R"("dtype":{"a":{"a":{}}})"), kBad, "has an object where"},
        Hostile{"TensorIsNull", testing::WithHeader("{\"w\":null}", 0), kBad, "has null"},
        Hostile{"TensorIsNumber", testing::WithHeader("{\"w\":3}", 0), kBad, "has a number"},
        Hostile{"TensorIsTrue", testing::WithHeader("{\"w\":true}", 0), kBad, "has a boolean"},
        Hostile{"TwiceTheSameName",
                testing::WithHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                                    R"("w":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                                    8),
                kBad, "tensor 'w' twice"},
        Hostile{"TwiceTheSameField",
                One(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"), kBad,
                "two fields 'dtype'"},
        Hostile{"EndlessName",
                testing::WithHeader("{\"" + std::string(1'000'000, 'n') + "\":{}}", 0), kBad,
                "a name of 1000000 bytes"},
        Hostile{"EndlessDtype", One("\"dtype\":\"" + std::string(1'000'000, 'n') + "\""), kBad,
                "a dtype of 1000000 bytes"},
        Hostile{"UnknownField", One(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
                kBad, "unknown field 'x'"},
        Hostile{"NoShape", One(R"("dtype":"F32","data_offsets":[0,8])"), kBad, "lacks one of"},
        Hostile{"NoDtype", One(R"("shape":[2],"data_offsets":[0,8])"), kBad, "lacks one of"},
        Hostile{"NoOffsets", One(R"("dtype":"F32","shape":[2])"), kBad, "lacks one of"},
        Hostile{"OneOffset", One(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), kBad,
                "1 numbers, not 2"},
        Hostile{"ThreeOffsets", One(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), kBad,
                "over 2 numbers"},
        Hostile{"UnknownDtype", One(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), kBad,
                "tensor 'w' has the unknown dtype 'F31'"},
        Hostile{"NegativeDimension", One(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
                kBad, "the negative number -2"},
        Hostile{"FractionalDimension", One(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
                kBad, "the number 2.0"},
        Hostile{"HugeDimension",
                One(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"), kBad,
                "18446744073709551615"},
        Hostile{"BeyondUint64",
                One(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])"), kBad,
                "18446744073709551616"},
        // 2^32 * 2^32 and 2^62 * 4 bytes would wrap to 0.
        Hostile{"ShapeOverflows",
                One(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), kBad,
                "too large to address"},
        Hostile{"BytesOverflow",
                One(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), kBad,
                "too large to address"},
        Hostile{"OverflowBesideZero",
                One(R"("dtype":"U8","shape":[4294967296,0,4294967296],"data_offsets":[0,0])"), kBad,
                "too large to address"},
        Hostile{"ManyDimensions",
                One("\"dtype\":\"U8\",\"shape\":[1" + std::string(100, ',') + "]"), kBad,
                "is not JSON"},
        Hostile{"SixtyFiveDimensions",
                One("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
                    "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
                    "1]"),
                kBad, "more than 64 dimensions"},
        Hostile{"BeginAfterEnd", One(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), kRange,
                "begins at byte 8 and ends before, at 0"},
        Hostile{"TooFewBytes", One(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), kBad,
                "has 8 bytes, but F32 [3] takes 12"},
        Hostile{"TooManyBytes", One(R"("dtype":"F16","shape":[],"data_offsets":[0,8])"), kBad,
                "has 8 bytes, but F16 [] takes 2"},
        Hostile{"HalfABytes", One(R"("dtype":"F4","shape":[3],"data_offsets":[0,8])"), kBad,
                "fill no whole bytes"},
        Hostile{"Truncated", One(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 7), kRange,
                "tensor 'w' ends at byte 8 of the data, but only 7"},
        Hostile{"OffsetsOverflow",
                One(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"), kRange,
                "18446744073709551615"},
        Hostile{"HoleAtTheStart", One(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])", 12),
                kRange, "leaves a hole after 'the header'"},
        Hostile{"Hole",
                testing::WithHeader(R"({"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                                    R"("w":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}})",
                                    8),
                kRange, "'w' begins at byte 5 of the data and leaves a hole after 'v'"},
        Hostile{"Overlap",
                testing::WithHeader(R"({"v":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},)"
                                    R"("w":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                                    8),
                kRange, "'w' begins at byte 4 of the data and overlaps 'v'"},
        Hostile{"SameBytesTwice",
                testing::WithHeader(R"({"v":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                                    R"("w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
                                    8),
                kRange, "overlaps"},
        Hostile{"TrailingBytes", One(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 11),
                kRange, "3 bytes after the last tensor"},
        Hostile{"OnlyTrailingBytes", testing::WithHeader("{}", 5), kRange, "5 bytes after"},
        Hostile{"MetadataNumber", testing::WithHeader(R"({"__metadata__":{"a":1}})", 0), kBad,
                "has a number"},
        Hostile{"MetadataObject", testing::WithHeader(R"({"__metadata__":{"a":{}}})", 0), kBad,
                "has an object"},
        Hostile{"MetadataTwice", testing::WithHeader(R"({"__metadata__":{"a":"","a":""}})", 0),
                kBad, "metadata 'a' twice"},
        Hostile{"MetadataSectionTwice",
                testing::WithHeader(R"({"__metadata__":{},"__metadata__":{}})", 0), kBad,
                "'__metadata__' twice"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(Safetensors, AHeaderCutOffInMemoryIsRefused) {
  const std::string text = testing::SafetensorsText({{"w", "U8", {3}, "abc"}});
  for (size_t size = 0; size + 3 < text.size(); ++size) {
    EXPECT_FALSE(Safetensors::Parse(std::string_view(text).substr(0, size), text.size(), "f").ok())
        << size;
  }
  EXPECT_TRUE(
      Safetensors::Parse(std::string_view(text).substr(0, text.size() - 3), text.size(), "f").ok());
}

TEST(Safetensors, AFileThatShrinksUnderUsFails) {
  TempFolder folder;
  const std::string path = folder / "f.safetensors";
  testing::WriteText(path, testing::SafetensorsText({{"w", "U8", {300}, std::string(300, 'x')}}));
  const absl::StatusOr<Safetensors> file = Safetensors::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::resize_file(path, file->file_bytes() - 1);
  EXPECT_TRUE(FailsWith(file->ReadIntegers("w").status(), StatusCode::kOutOfRange, path));
}

}  // namespace
}  // namespace qianyi
