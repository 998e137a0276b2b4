#include "runtime/memory_size.h"

#include <gtest/gtest.h>

namespace qianyi {
namespace {

TEST(MemorySizeTest, ParsesSizes) {
  EXPECT_EQ(*ParseSize("3GiB"), 3ull << 30);
  EXPECT_EQ(*ParseSize(" 1.5 GiB "), 3ull << 29);
  EXPECT_EQ(*ParseSize("512MB"), 512000000u);
  EXPECT_EQ(*ParseSize("7gb"), 7000000000u);
  EXPECT_EQ(*ParseSize("4096"), 4096u);
  EXPECT_EQ(*ParseSize("0"), 0u);
}

TEST(MemorySizeTest, RefusesWhatIsNoSize) {
  for (const char* text : {"", "-1", "-3GiB", "abc", "3XB", "GiB", "1e5", "1..5GiB", "3GiB/s",
                           "nan", "inf", "10000000TiB", "99999999999999999999999999", "0x10"}) {
    EXPECT_EQ(ParseSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(MemorySizeTest, ParsesRates) {
  EXPECT_DOUBLE_EQ(*ParseRate("25GB/s"), 25e9);
  EXPECT_DOUBLE_EQ(*ParseRate("800 MB/s"), 8e8);
  for (const char* text : {"25GB", "0GB/s", "-1GB/s", "GB/s", "/s", ""}) {
    EXPECT_FALSE(ParseRate(text).ok()) << text;
  }
}

TEST(MemorySizeTest, FormatsSizes) {
  EXPECT_EQ(FormatSize(3ull << 30), "3.00 GiB");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(12), "12 B");
}

TEST(MemorySizeTest, KnowsThisProcess) {
  EXPECT_GT(AvailableMemoryBytes(), 64ull << 20);
  EXPECT_GT(ResidentBytes(), 1ull << 20);
  EXPECT_GE(PeakResidentBytes(), ResidentBytes() / 2);
}

}  // namespace
}  // namespace qianyi
