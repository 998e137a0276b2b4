#include "runtime/storage/synth.h"

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernels/packed.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/format.h"
#include "runtime/storage/model_layout.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::TempFolder;

constexpr PackedFormat kFormats[] = {{DType::kF32, 0}, {DType::kF16, 0}, {DType::kBF16, 0},
                                     {DType::kI8, 0},  {DType::kI4, 0},  {DType::kI4, 32},
                                     {DType::kI4, 64}, {DType::kI4, 128}};

Block WholeBlock(const TensorSpec& tensor, PackedFormat format) {
  return {.bytes = BlockBytes(tensor, format, tensor.rows()), .rows = tensor.rows()};
}

std::vector<float> Values(const TensorSpec& tensor, PackedFormat format, uint64_t seed) {
  const Block block = WholeBlock(tensor, format);
  const PageBuffer bytes = AllocatePages(block.bytes);
  SynthBlock(tensor, format, seed, block, bytes.get());
  std::vector<float> values(tensor.rows() * tensor.cols());
  if (tensor.use == TensorUse::kConstant) {
    std::memcpy(values.data(), bytes.get(), block.bytes);
  } else {
    UnpackRows({.data = bytes.get(), .format = format, .rows = block.rows, .cols = tensor.cols()},
               values.data());
  }
  return values;
}

struct Moments {
  double mean = 0, deviation = 0;
};

Moments MomentsOf(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const double mean = sum / values.size();
  return {mean, std::sqrt(squares / values.size() - mean * mean)};
}

class SynthFormat : public ::testing::TestWithParam<PackedFormat> {};

TEST_P(SynthFormat, WeightsHaveTheMomentsPromised) {
  for (const int64_t cols : {512, 640}) {
    const TensorSpec matrix{.name = "m", .shape = {1000, cols}};
    const PackedFormat format = FormatFor(matrix, GetParam());
    const Moments moments = MomentsOf(Values(matrix, format, 1));
    const double wanted = 1 / std::sqrt(static_cast<double>(cols));
    EXPECT_NEAR(moments.deviation, wanted, wanted * 0.01);
    EXPECT_NEAR(moments.mean, 0, wanted * 0.006);
  }
  TensorSpec table{.name = "t", .shape = {1000, 512}, .use = TensorUse::kEmbedding};
  EXPECT_NEAR(MomentsOf(Values(table, GetParam(), 1)).deviation, 1, 0.01);
  table.tied = true;
  EXPECT_NEAR(MomentsOf(Values(table, GetParam(), 1)).deviation, 1 / std::sqrt(512.0), 0.001);
}

TEST_P(SynthFormat, EveryRowAndColumnHasItsShare) {
  const TensorSpec matrix{.name = "m", .shape = {333, 450}};
  const PackedFormat format = FormatFor(matrix, GetParam());
  const std::vector<float> values = Values(matrix, format, 3);
  const double wanted = 1 / std::sqrt(450.0);
  for (int64_t row = 0; row < 333; ++row) {
    std::vector<float> one(values.begin() + row * 450, values.begin() + (row + 1) * 450);
    EXPECT_NEAR(MomentsOf(one).deviation, wanted, wanted * 0.25) << "row " << row;
    EXPECT_NEAR(MomentsOf(one).mean, 0, wanted * 0.25) << "row " << row;
  }
  for (int64_t column = 0; column < 450; ++column) {
    std::vector<float> one;
    for (int64_t row = 0; row < 333; ++row) one.push_back(values[row * 450 + column]);
    EXPECT_NEAR(MomentsOf(one).deviation, wanted, wanted * 0.3) << "column " << column;
    EXPECT_NEAR(MomentsOf(one).mean, 0, wanted * 0.3) << "column " << column;
  }
}

TEST_P(SynthFormat, DependsOnSeedNameAndPositionOnly) {
  const TensorSpec a{.name = "a", .shape = {48, 128}};
  const TensorSpec b{.name = "b", .shape = {48, 128}};
  const std::vector<float> values = Values(a, GetParam(), 1);
  EXPECT_EQ(values, Values(a, GetParam(), 1));
  EXPECT_NE(values, Values(a, GetParam(), 2));
  EXPECT_NE(values, Values(b, GetParam(), 1));
  // Rows 16.. as a block of their own are the same rows.
  const Block second = {.bytes = BlockBytes(a, GetParam(), 32), .row_begin = 16, .rows = 32};
  const PageBuffer bytes = AllocatePages(second.bytes);
  SynthBlock(a, GetParam(), 1, second, bytes.get());
  std::vector<float> tail(32 * 128);
  UnpackRows({.data = bytes.get(), .format = GetParam(), .rows = 32, .cols = 128}, tail.data());
  EXPECT_EQ(tail, std::vector<float>(values.begin() + 16 * 128, values.end()));
}

TEST_P(SynthFormat, AnyPartEqualsTheWhole) {
  // Odd rows and columns: padding of both kinds.
  const TensorSpec matrix{.name = "m", .shape = {71, 333}};
  const PackedFormat format = FormatFor(matrix, GetParam());
  const Block block = WholeBlock(matrix, format);
  const PageBuffer whole = AllocatePages(block.bytes), part = AllocatePages(block.bytes);
  SynthBlock(matrix, format, 5, block, whole.get());
  for (const uint64_t step : {uint64_t{64}, uint64_t{4096}, uint64_t{12288}}) {
    std::memset(part.get(), 0xee, block.bytes);
    for (uint64_t at = 0; at < block.bytes; at += step) {
      SynthBytes(matrix, format, 5, block, at, std::min(step, block.bytes - at), part.get() + at);
    }
    EXPECT_EQ(std::memcmp(whole.get(), part.get(), block.bytes), 0) << step;
  }
}

// The bytes of padding are those that PackRows writes: what it makes of weights that are
// one everywhere shows where they are.
TEST_P(SynthFormat, PaddingIsAsPackingLeavesIt) {
  for (const int64_t cols : {1, 3, 31, 32, 33, 63, 64, 65, 96, 129, 333}) {
    const TensorSpec matrix{.name = "m", .shape = {21, cols}};
    const PackedFormat format = FormatFor(matrix, GetParam());
    const Block block = WholeBlock(matrix, format);
    const PageBuffer synth = AllocatePages(block.bytes), packed = AllocatePages(block.bytes);
    SynthBlock(matrix, format, 5, block, synth.get());
    std::vector<float> ones(21 * cols, 1.0f);
    PackRows(format, ones.data(), 21, cols, cols, packed.get());
    const std::byte padding = format.dtype == DType::kI4 ? std::byte{0x8} : std::byte{0};
    for (uint64_t i = 0; i < block.bytes; ++i) {
      const uint64_t in_panel = i % PanelBytes(format, cols);
      const bool weights = in_panel >= TileOffset(format, cols);
      if (format.dtype == DType::kI4 && weights) {
        for (const int shift : {0, 4}) {
          const auto nibble = [&](const PageBuffer& b) { return (b[i] >> shift) & std::byte{15}; };
          if (nibble(packed) == padding) {
            ASSERT_EQ(nibble(synth), padding) << cols << " columns, byte " << i;
          }
        }
      } else if (i / PanelBytes(format, cols) == 1 && in_panel % 64 / 4 >= 5 &&
                 (weights || in_panel < GroupScaleOffset(format))) {
        ASSERT_EQ(synth[i], std::byte{0}) << cols << " columns, byte " << i;  // rows past the last
      } else if (format.dtype != DType::kI4 && weights && packed[i / 4 * 4 + 0] == std::byte{0} &&
                 packed[i / 4 * 4 + 1] == std::byte{0} && packed[i / 4 * 4 + 2] == std::byte{0} &&
                 packed[i / 4 * 4 + 3] == std::byte{0}) {
        ASSERT_EQ(synth[i], std::byte{0}) << cols << " columns, byte " << i;
      }
    }
    // And no column in use is touched: none is zero in every row.
    const std::vector<float> values = Values(matrix, format, 5);
    for (int64_t column = 0; column < cols; ++column) {
      bool used = false;
      for (int64_t row = 0; row < 21; ++row) used |= values[row * cols + column] != 0;
      EXPECT_TRUE(used) << cols << " columns, column " << column;
    }
  }
}

TEST_P(SynthFormat, ReaderServesWhatIsWritten) {
  for (const std::string& config : {testing::TinyChatGlm2Config(), testing::TinyBlockLmConfig()}) {
    TempFolder folder;
    const ModelSpec spec = testing::Describe(config);
    ASSERT_OK(WriteSynth(spec, GetParam(), 11, folder / "out", nullptr));
    const absl::StatusOr<ModelFile> written = ModelFile::Open(folder / "out");
    ASSERT_TRUE(written.ok()) << written.status();
    const absl::StatusOr<ModelFile> laid = ModelFile::Lay(spec, GetParam(), 11);
    ASSERT_TRUE(laid.ok()) << laid.status();
    ASSERT_EQ(laid->file_bytes, written->file_bytes);
    auto synth = OpenModelReader(*laid, 0, {.depth = 3});
    ASSERT_TRUE(synth.ok()) << synth.status();
    EXPECT_EQ((*synth)->name(), "synth");
    EXPECT_EQ((*synth)->size(), laid->file_bytes[0]);
    EXPECT_EQ((*synth)->depth(), 3);
    std::string file = testing::ReadText(written->files[0]);
    const uint64_t header_bytes = HeaderText(*laid).size();
    std::fill_n(file.begin(), header_bytes, '\0');
    for (const uint64_t step : {kPageBytes, 5 * kPageBytes, file.size()}) {
      const PageBuffer buffer = AllocatePages(step);
      for (uint64_t at = 0; at < file.size(); at += step) {
        const uint64_t bytes = std::min<uint64_t>(step, file.size() - at);
        ASSERT_OK((*synth)->Submit({at, bytes, buffer.get(), at}));
        const ReadCompletion done = (*synth)->Wait();
        ASSERT_OK(done.status);
        EXPECT_EQ(done.cookie, at);
        EXPECT_EQ(done.bytes, bytes);
        ASSERT_EQ(std::memcmp(buffer.get(), file.data() + at, bytes), 0) << "at " << at;
      }
    }
    for (const StoredTensor& tensor : written->tensors) {
      EXPECT_EQ(tensor.original_dtype, "synth");
      testing::ReadTensor(*written, tensor);  // checks the checksums
    }
  }
}

std::string NameOf(const ::testing::TestParamInfo<PackedFormat>& info) {
  const PackedFormat format = info.param;
  const std::string group = format.group > 0 ? "Group" + std::to_string(format.group) : "";
  return std::string(DTypeName(format.dtype)) + group;
}

INSTANTIATE_TEST_SUITE_P(All, SynthFormat, ::testing::ValuesIn(kFormats), NameOf);

TEST(Synth, ConstantsAreWhatTheirNamesSay) {
  const auto constant = [](const char* name, std::vector<int64_t> shape) {
    return Values({.name = name, .shape = std::move(shape), .use = TensorUse::kConstant}, {}, 1);
  };
  for (const char* name : {"transformer.encoder.final_layernorm.weight", "x.input_layernorm.weight",
                           "model.norm.weight"}) {
    EXPECT_EQ(constant(name, {37}), std::vector<float>(37, 1.0f)) << name;
  }
  for (const char* name : {"x.input_layernorm.bias", "x.query_key_value.bias"}) {
    const Moments moments = MomentsOf(constant(name, {4001}));
    EXPECT_NEAR(moments.deviation, 0.02, 0.001);
    EXPECT_NEAR(moments.mean, 0, 0.002);
  }
  EXPECT_NEAR(MomentsOf(constant("transformer.position_embeddings.weight", {129, 65})).deviation,
              0.02, 0.0005);
}

TEST(Synth, ReaderRefusesWhatARealOneWould) {
  const absl::StatusOr<ModelFile> model =
      ModelFile::Lay(testing::Describe(testing::TinyChatGlm2Config()), {DType::kI8, 0});
  ASSERT_TRUE(model.ok()) << model.status();
  auto reader = OpenSynthReader(*model, {.depth = 1});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const PageBuffer page = AllocatePages(kPageBytes);
  EXPECT_TRUE(FailsWith((*reader)->Submit({1, kPageBytes, page.get(), 0}),
                        StatusCode::kInvalidArgument, "synth:0"));
  EXPECT_TRUE(FailsWith((*reader)->Wait().status, StatusCode::kFailedPrecondition, "none is"));
  ASSERT_OK((*reader)->Submit({0, kPageBytes, page.get(), 0}));
  EXPECT_TRUE(FailsWith((*reader)->Submit({0, kPageBytes, page.get(), 0}),
                        StatusCode::kFailedPrecondition, "1 reads are under way"));
  ModelFile real = *model;
  real.files = {"/somewhere/model.safetensors"};
  EXPECT_TRUE(FailsWith(OpenSynthReader(real, {}).status(), StatusCode::kInvalidArgument,
                        "not made by ModelFile::Lay"));
}

}  // namespace
}  // namespace qianyi
