#include "runtime/storage/format.h"

#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using testing::FailsWith;

TEST(Format, NamesGoBothWays) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kI4}) {
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("F16"), std::nullopt);
  EXPECT_EQ(DTypeFromName(""), std::nullopt);
}

TEST(Format, ParsesWhatUsersAskFor) {
  EXPECT_EQ(*ParseFormat("f32", std::nullopt), (PackedFormat{DType::kF32, 0}));
  EXPECT_EQ(*ParseFormat("int8", std::nullopt), (PackedFormat{DType::kI8, 0}));
  EXPECT_EQ(*ParseFormat("int4", std::nullopt), (PackedFormat{DType::kI4, 32}));
  for (const int group : {0, 32, 64, 128}) {
    EXPECT_EQ(*ParseFormat("int4", group), (PackedFormat{DType::kI4, group}));
    EXPECT_TRUE(IsValid(*ParseFormat("int4", group)));
  }
  const absl::StatusCode bad = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(FailsWith(ParseFormat("fp8", std::nullopt).status(), bad,
                        "dtype 'fp8' is none of f32, f16, bf16, int8, int4"));
  EXPECT_TRUE(FailsWith(ParseFormat("int8", 32).status(), bad, "only int4 has groups, not int8"));
  EXPECT_TRUE(FailsWith(ParseFormat("f16", 0).status(), bad, "only int4 has groups"));
  EXPECT_TRUE(FailsWith(ParseFormat("int4", 16).status(), bad, "group 16 is none of 0"));
  EXPECT_TRUE(FailsWith(ParseFormat("int4", -32).status(), bad, "group -32"));
}

TEST(Format, TensorsThatGroupsDoNotFitFallBackToRows) {
  const PackedFormat int4{DType::kI4, 64};
  const TensorSpec even{.name = "a", .shape = {3, 128}};
  const TensorSpec odd{.name = "b", .shape = {3, 96}};
  const TensorSpec constant{.name = "c", .shape = {64}, .use = TensorUse::kConstant};
  EXPECT_EQ(FormatFor(even, int4), int4);
  EXPECT_EQ(FormatFor(odd, int4), (PackedFormat{DType::kI4, 0}));
  EXPECT_EQ(FormatFor(constant, int4), (PackedFormat{DType::kF32, 0}));
  EXPECT_EQ(FormatFor(odd, {DType::kI8, 0}), (PackedFormat{DType::kI8, 0}));
}

}  // namespace
}  // namespace qianyi
