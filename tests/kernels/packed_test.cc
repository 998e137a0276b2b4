#include "kernels/packed.h"

#include <bit>
#include <limits>

#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

std::vector<float> RoundTrip(PackedFormat format, const std::vector<float>& source, int64_t rows,
                             int64_t cols) {
  AlignedBytes packed(PackedBytes(format, rows, cols));
  PackRows(format, source.data(), rows, cols, cols, packed.data());
  std::vector<float> out(rows * cols);
  UnpackRows({packed.data(), format, rows, cols}, out.data());
  return out;
}

double SignalToNoise(const std::vector<float>& x, const std::vector<float>& y) {
  double signal = 0.0, noise = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    signal += double{x[i]} * x[i];
    noise += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  }
  return 10.0 * std::log10(signal / noise);
}

TEST(PackedTest, OnlyTheFormatsOfTheHeaderAreValid) {
  for (PackedFormat format : kFormats) EXPECT_TRUE(IsValid(format)) << FormatName(format);
  EXPECT_FALSE(IsValid({DType::kI4, 16}));
  EXPECT_FALSE(IsValid({DType::kI4, 96}));
  EXPECT_FALSE(IsValid({DType::kI4, -32}));
  EXPECT_FALSE(IsValid({DType::kI8, 32}));
  EXPECT_FALSE(IsValid({DType::kF16, 32}));
  EXPECT_FALSE(IsValid({static_cast<DType>(9), 0}));
}

TEST(PackedTest, SizesAreAsTheHeaderSays) {
  EXPECT_EQ(PanelBytes({DType::kF32, 0}, 3), 3u * 64);
  EXPECT_EQ(PanelBytes({DType::kF16, 0}, 3), 2u * 64);
  EXPECT_EQ(PanelBytes({DType::kI8, 0}, 65), 64u + 2 * 1024);
  EXPECT_EQ(PanelBytes({DType::kI4, 0}, 65), 64u + 2 * 512);
  EXPECT_EQ(PanelBytes({DType::kI4, 32}, 65), 64u + 64 + 2 * 512);
  EXPECT_EQ(PanelBytes({DType::kI4, 32}, 4096), 64u + 2048 + 64 * 512);
  EXPECT_EQ(PanelBytes({DType::kI4, 128}, 4096), 64u + 512 + 64 * 512);
  EXPECT_EQ(PackedBytes({DType::kF32, 0}, 17, 5), 2u * 5 * 64);
  EXPECT_EQ(GroupCount({DType::kI4, 64}, 65), 2);
  for (PackedFormat format : kFormats) {
    for (int64_t cols : {1, 15, 33, 64, 97, 513}) {
      EXPECT_EQ(PanelBytes(format, cols) % 64, 0u) << FormatName(format) << " " << cols;
      EXPECT_LE(TileOffset(format, cols), PanelBytes(format, cols));
    }
  }
}

// Golden bytes: files hold this layout.
TEST(PackedTest, TheLayoutIsAsTheHeaderSays) {
  std::vector<int8_t> values(16 * 70);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int8_t>(i % 15) - 7;
  std::vector<float> row_scale(16);
  for (int r = 0; r < 16; ++r) row_scale[r] = static_cast<float>(r + 1);
  std::vector<int8_t> group_scale(16 * 3);
  for (size_t i = 0; i < group_scale.size(); ++i) group_scale[i] = static_cast<int8_t>(i % 31 - 15);

  const PackedFormat int4{DType::kI4, 32};
  AlignedBytes packed(PackedBytes(int4, 16, 70));
  PackIntegers(int4, values.data(), row_scale.data(), group_scale.data(), 16, 70, 70,
               packed.data());
  const auto byte = [&](size_t at) { return static_cast<int>(packed.data()[at]); };
  EXPECT_EQ(reinterpret_cast<const float*>(packed.data())[5], 6.0f);
  for (int r = 0; r < 16; ++r) {
    for (int g = 0; g < 3; ++g) {
      EXPECT_EQ(static_cast<int8_t>(byte(64 + g * 16 + r)), group_scale[r * 3 + g]);
    }
    for (int c = 0; c < 64; ++c) {
      const int b = byte(128 + c % 32 / 4 * 64 + r * 4 + c % 4);
      EXPECT_EQ((c < 32 ? b & 15 : b >> 4) - 8, values[r * 70 + c]) << r << " " << c;
    }
    EXPECT_EQ(byte(128 + 512 + 1 * 64 + r * 4 + 1), (values[r * 70 + 69] + 8) | 0x80);
    EXPECT_EQ(byte(128 + 512 + 1 * 64 + r * 4 + 2), 0x88);  // padding: a weight of zero
  }

  const PackedFormat int8{DType::kI8, 0};
  AlignedBytes bytes(PackedBytes(int8, 16, 70));
  PackIntegers(int8, values.data(), row_scale.data(), nullptr, 16, 70, 70, bytes.data());
  for (int c : {0, 5, 63, 64, 69}) {
    const size_t at = 64 + c / 64 * 1024 + c % 64 / 4 * 64 + 3 * 4 + c % 4;
    EXPECT_EQ(static_cast<int8_t>(bytes.data()[at]), values[3 * 70 + c]);
  }
}

TEST(PackedTest, FloatsComeBackAsTheyWere) {
  const std::vector<float> source = RandomValues(37 * 101, 7);
  EXPECT_TRUE(SameBits(RoundTrip({DType::kF32, 0}, source, 37, 101), source));
  std::vector<float> half = source, bfloat = source;
  for (float& x : half) x = HalfToFloat(FloatToHalf(x));
  for (float& x : bfloat) x = BFloat16ToFloat(FloatToBFloat16(x));
  EXPECT_TRUE(SameBits(RoundTrip({DType::kF16, 0}, source, 37, 101), half));
  EXPECT_TRUE(SameBits(RoundTrip({DType::kBF16, 0}, source, 37, 101), bfloat));
}

TEST(PackedTest, QuantizationIsAsGoodAsItShouldBe) {
  const std::vector<float> source = RandomValues(64 * 1024, 8);
  const auto decibels = [&](PackedFormat format) {
    return SignalToNoise(source, RoundTrip(format, source, 64, 1024));
  };
  EXPECT_GT(decibels({DType::kI8, 0}), 42.0);
  EXPECT_GT(decibels({DType::kI4, 32}), 21.5);
  EXPECT_GT(decibels({DType::kI4, 64}), 20.9);
  EXPECT_GT(decibels({DType::kI4, 128}), 20.2);
  EXPECT_GT(decibels({DType::kI4, 0}), 19.0);
}

TEST(PackedTest, TheSameBytesWhateverTheStrideAndTheRowBlock) {
  const std::vector<float> source = RandomValues(48 * 130, 9);
  for (PackedFormat format : kFormats) {
    AlignedBytes whole(PackedBytes(format, 48, 100)), parts(PackedBytes(format, 48, 100));
    PackRows(format, source.data(), 48, 100, 130, whole.data());
    std::vector<float> dense;
    for (int r = 0; r < 48; ++r) {
      dense.insert(dense.end(), source.begin() + r * 130, source.begin() + r * 130 + 100);
    }
    PackRows(format, dense.data(), 16, 100, 100, parts.data());
    PackRows(format, dense.data() + 1600, 32, 100, 100,
             parts.data() + PackedBytes(format, 16, 100));
    EXPECT_EQ(std::memcmp(whole.data(), parts.data(), whole.size()), 0) << FormatName(format);
  }
}

TEST(PackedTest, IntegersComeBackAsTheyWere) {
  for (PackedFormat format : {PackedFormat{DType::kI4, 0}, {DType::kI4, 64}, {DType::kI8, 0}}) {
    constexpr int64_t kRows = 19, kCols = 150, kStride = 160;
    const int64_t groups = GroupCount(format, kCols);
    std::vector<int8_t> values(kRows * kStride), group_scale(kRows * groups);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<int8_t>(static_cast<int>(RandomIndex(1, i, 15)) - 7);
    }
    for (size_t i = 0; i < group_scale.size(); ++i) {
      group_scale[i] = static_cast<int8_t>(static_cast<int>(RandomIndex(2, i, 32)) - 15);
    }
    const std::vector<float> row_scale = RandomValues(kRows, 3);
    AlignedBytes packed(PackedBytes(format, kRows, kCols));
    PackIntegers(format, values.data(), row_scale.data(), group_scale.data(), kRows, kCols, kStride,
                 packed.data());
    std::vector<float> out(kCols);
    for (int64_t r = 0; r < kRows; ++r) {
      UnpackRow({packed.data(), format, kRows, kCols}, r, out.data());
      for (int64_t c = 0; c < kCols; ++c) {
        const int scale = groups > 0 ? group_scale[r * groups + c / format.group] : 1;
        ASSERT_EQ(out[c], static_cast<float>(values[r * kStride + c] * scale) * row_scale[r]);
      }
    }
  }
}

TEST(PackedTest, BadAndTinyWeightsAreDefined) {
  for (PackedFormat format : kFormats) {
    if (!format.integer()) continue;
    std::vector<float> source = RandomValues(4 * 64, 10);
    source[5] = std::numeric_limits<float>::quiet_NaN();
    source[64 + 7] = std::numeric_limits<float>::infinity();
    for (int c = 0; c < 64; ++c) source[2 * 64 + c] = 0.0f;
    for (int c = 0; c < 64; ++c) source[3 * 64 + c] = 1e-40f;
    const std::vector<float> out = RoundTrip(format, source, 4, 64);
    for (int c = 0; c < 64; ++c) {
      EXPECT_TRUE(std::isnan(out[c])) << "a bad weight must show";
      EXPECT_TRUE(std::isnan(out[64 + c]));
      EXPECT_EQ(out[128 + c], 0.0f);
      EXPECT_EQ(out[192 + c], 0.0f);
    }
  }
}

TEST(HalfTest, EveryHalfComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if ((half & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    const int exponent = (half >> 10) & 31, mantissa = half & 1023;
    if (exponent < 31) {
      const double expected =
          (half & 0x8000 ? -1.0 : 1.0) *
          (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
      ASSERT_EQ(value, expected) << bits;
    }
    ASSERT_EQ(FloatToHalf(value), half) << bits;
  }
}

TEST(HalfTest, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const uint16_t low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const float middle = (HalfToFloat(low) + HalfToFloat(high)) / 2;  // exact
    const uint16_t even = bits % 2 == 0 ? low : high;
    ASSERT_EQ(FloatToHalf(middle), even) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), high) << bits;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(1e30f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::quiet_NaN()) & 0x7e00, 0x7e00);
  EXPECT_EQ(FloatToBFloat16(1.00390625f), 0x3f80);  // half way, to even
  EXPECT_EQ(FloatToBFloat16(1.01171875f), 0x3f82);
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace qianyi::testing
