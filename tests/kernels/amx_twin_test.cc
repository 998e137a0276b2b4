// The AMX algorithm over tile instructions written out in C++, so that every machine
// tests it: the same template, the same case table, the reference's bits.
#include "kernels/cpu/amx_templates.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/drivers.h"
#include "kernels/cpu/vec_scalar.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"

namespace qianyi::testing {
namespace {

// Sums in tiles [0][0] to [1][1], two tiles of activations, two of weights, all 16 × 64 bytes.
struct EmulatedTiles {
  struct State {
    bool configured = false;
    int32_t sums[2][2][16][16];
    int8_t tokens[2][16][64];
    int8_t weights[2][16][64];
  };
  static State& Get() {
    thread_local State state;
    return state;
  }
  static void Configure() { Get().configured = true; }
  static void Release() { Get() = {}; }
  static void OperandsAreStored() {}

  template <int kTokenTile, int kPanel>
  static void Zero() {
    std::memset(Get().sums[kTokenTile][kPanel], 0, sizeof(Get().sums[0][0]));
  }
  template <int kTokenTile>
  static void LoadTokens(const int8_t* rows, int64_t stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(Get().tokens[kTokenTile][r], rows + r * stride, 64);
  }
  template <int kPanel>
  static void LoadWeights(const int8_t* tile) {
    std::memcpy(Get().weights[kPanel], tile, sizeof(Get().weights[0]));
  }
  // As TDPBSSD has it: row k of the second operand holds four columns of all 16 rows.
  template <int kTokenTile, int kPanel>
  static void Multiply() {
    State& s = Get();
    ASSERT_TRUE(s.configured);
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < 16; ++n) {
          for (int i = 0; i < 4; ++i) {
            s.sums[kTokenTile][kPanel][m][n] +=
                s.tokens[kTokenTile][m][4 * k + i] * s.weights[kPanel][k][4 * n + i];
          }
        }
      }
    }
  }
  template <int kTokenTile, int kPanel>
  static void Store(int32_t (*sums)[kPanelRows]) {
    std::memcpy(sums, Get().sums[kTokenTile][kPanel], sizeof(Get().sums[0][0]));
  }
};

void UnpackPlainly(const cpu::LinearBlock& block, const std::byte* panel, int64_t begin,
                   int64_t tiles, int8_t* out) {
  for (int64_t i = 0; i < tiles * 1024; ++i) {
    const int64_t tile = i / 1024, quad = i % 1024 / 64, row = i % 64 / 4;
    const int64_t col = begin + tile * 64 + quad * 4 + i % 4;
    const int64_t at = (begin / 64 + tile) * 512 + quad % 8 * 64 + i % 64;
    const int byte = static_cast<int>(panel[block.tile_offset + at]);
    int weight = (quad < 8 ? byte & 15 : byte >> 4) - 8;
    if (block.group > 0) {
      weight *= static_cast<int8_t>(panel[64 + col / block.group * kPanelRows + row]);
    }
    out[i] = static_cast<int8_t>(weight);
  }
}

void LinearTwin(const cpu::LinearBlock& block) {
  cpu::MultiplyWithTiles<cpu::Vec, EmulatedTiles>(block, UnpackPlainly);
}

class AmxTwinTest : public ::testing::TestWithParam<LinearCase> {};

TEST_P(AmxTwinTest, GivesTheBitsOfTheReference) {
  static Backend twin = *CpuVariants().items[0];
  twin.linear = [](const Linear& args, Stream stream) {
    cpu::RunLinear(args, *static_cast<cpu::ThreadPool*>(stream.handle), LinearTwin);
  };
  for (PackedFormat format : kFormats) {
    if (!format.integer()) continue;
    LinearProblem problem(GetParam(), format);
    const std::vector<float> expected = problem.Run(*CpuVariants().items[0], 1);
    for (int threads : {1, 2}) {
      EXPECT_TRUE(SameBits(problem.Run(twin, threads), expected)) << FormatName(format);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AmxTwinTest, ::testing::ValuesIn(kLinearCases),
                         [](const auto& test) {
                           const LinearCase& c = test.param;
                           return std::to_string(c.tokens) + "x" + std::to_string(c.rows) + "x" +
                                  std::to_string(c.cols);
                         });

#if defined(__x86_64__)
// Every nibble with every scale.
TEST(Int4UnpackTest, Avx512GivesWhatPlainCodeGives) {
  if (!cpu::DetectFeatures().avx512) GTEST_SKIP() << "this processor has no AVX-512";
  for (PackedFormat format : kFormats) {
    if (format.dtype != DType::kI4) continue;
    constexpr int64_t kRows = 16, kCols = 1024;
    std::vector<int8_t> values(kRows * kCols), scales(kRows * kCols / 32);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int8_t>(i % 16 - 8);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<int8_t>(i % 32 - 15);
    const std::vector<float> row_scale(kRows, 1.0f);
    AlignedBytes packed(PackedBytes(format, kRows, kCols)), fast(8 * 1024), plain(8 * 1024);
    PackIntegers(format, values.data(), row_scale.data(), scales.data(), kRows, kCols, kCols,
                 packed.data());
    cpu::LinearBlock block{};
    block.group = format.group;
    block.tile_offset = TileOffset(format, kCols);
    for (int64_t begin : {0, 512}) {
      cpu::UnpackInt4Avx512(block, packed.data(), begin, 8, reinterpret_cast<int8_t*>(fast.data()));
      UnpackPlainly(block, packed.data(), begin, 8, reinterpret_cast<int8_t*>(plain.data()));
      EXPECT_EQ(std::memcmp(fast.data(), plain.data(), plain.size()), 0) << FormatName(format);
    }
  }
}
#endif

}  // namespace
}  // namespace qianyi::testing
