#include "runtime/storage/model_layout.h"

#include <map>
#include <string>
#include <vector>

#include "runtime/models/registry.h"
#include "runtime/storage/safetensors.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;

constexpr PackedFormat kFormats[] = {{DType::kF32, 0}, {DType::kF16, 0}, {DType::kBF16, 0},
                                     {DType::kI8, 0},  {DType::kI4, 0},  {DType::kI4, 32},
                                     {DType::kI4, 64}, {DType::kI4, 128}};

// What every laid out model must keep to, whatever its shape.
void CheckInvariants(const ModelFile& model, PackedFormat requested) {
  uint64_t end = 0;
  for (const BlockIndex& index : FileOrder(model)) {
    const StoredTensor& tensor = model.tensors[index.tensor];
    const Block& block = tensor.blocks[index.block];
    EXPECT_EQ(block.offset % kPageBytes, 0u);
    EXPECT_GE(block.offset, end);
    EXPECT_LT(block.offset - RoundUpToPage(end), kPageBytes * (end == 0 ? 100'000 : 1));
    end = block.offset + block.bytes;
  }
  EXPECT_EQ(RoundUpToPage(end), model.file_bytes[0]);
  for (const StoredTensor& tensor : model.tensors) {
    EXPECT_EQ(tensor.format, FormatFor(tensor.spec, requested));
    int64_t rows = 0;
    uint64_t most = 0;
    for (const Block& block : tensor.blocks) {
      EXPECT_EQ(block.row_begin, rows);
      EXPECT_EQ(block.row_begin % kPanelRows, 0);
      EXPECT_EQ(block.bytes, BlockBytes(tensor.spec, tensor.format, block.rows));
      rows += block.rows;
      most = std::max(most, block.bytes);
    }
    EXPECT_EQ(rows, tensor.spec.rows());
    if (tensor.spec.use == TensorUse::kConstant) {
      EXPECT_EQ(tensor.blocks.size(), 1u);
      continue;
    }
    const uint64_t panel = PanelBytes(tensor.format, tensor.spec.cols());
    const uint64_t wanted =
        tensor.spec.use == TensorUse::kEmbedding ? kGatherBlockBytes : kStreamBlockBytes;
    EXPECT_LE(most, std::max(wanted, panel));
    const std::vector<Block>& blocks = tensor.blocks;
    for (size_t i = 0; i + 1 < blocks.size(); ++i) {
      EXPECT_EQ(blocks[i].rows, blocks[0].rows) << tensor.spec.name << ": blocks are not even";
    }
    EXPECT_LE(blocks.back().rows, blocks[0].rows) << tensor.spec.name;
  }
}

TEST(Layout, KeepsItsInvariantsForEveryBuiltinShapeAndFormat) {
  for (const std::string_view name : BuiltinConfigNames()) {
    const ModelSpec spec = testing::Describe(*BuiltinConfig(name));
    for (const PackedFormat format : kFormats) {
      const absl::StatusOr<ModelFile> model = ModelFile::Lay(spec, format, 7);
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_EQ(model->files, (std::vector<std::string>{"synth:7"}));
      ASSERT_EQ(model->tensors.size(), spec.tensors.size());
      CheckInvariants(*model, format);
    }
  }
}

TEST(Layout, HeaderIsSafetensorsAndReadsBackAsTheSameTable) {
  for (const std::string& config :
       {testing::TinyChatGlm2Config(), testing::TinyBlockLmConfig(), *BuiltinConfig("glm-10b")}) {
    const absl::StatusOr<ModelFile> laid =
        ModelFile::Lay(testing::Describe(config), {DType::kI4, 32});
    ASSERT_TRUE(laid.ok()) << laid.status();
    const std::string header = HeaderText(*laid);
    EXPECT_EQ(header.size() % kPageBytes, 0u);
    const absl::StatusOr<Safetensors> file =
        Safetensors::Parse(header, laid->file_bytes[0], "laid.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    const absl::StatusOr<ModelFile> read = ReadContents("laid", config, {*file});
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->tensors.size(), laid->tensors.size());
    EXPECT_EQ(read->file_bytes, laid->file_bytes);
    EXPECT_EQ(read->files, (std::vector<std::string>{"laid.safetensors"}));
    for (size_t t = 0; t < laid->tensors.size(); ++t) {
      const StoredTensor &a = laid->tensors[t], &b = read->tensors[t];
      EXPECT_EQ(a.spec.name, b.spec.name);
      EXPECT_EQ(a.format, b.format);
      EXPECT_EQ(a.original_dtype, b.original_dtype);
      EXPECT_EQ(a.bytes(), b.bytes());
      ASSERT_EQ(a.blocks.size(), b.blocks.size());
      for (size_t i = 0; i < a.blocks.size(); ++i) {
        EXPECT_EQ(a.blocks[i].offset, b.blocks[i].offset);
        EXPECT_EQ(a.blocks[i].bytes, b.blocks[i].bytes);
        EXPECT_EQ(a.blocks[i].row_begin, b.blocks[i].row_begin);
        EXPECT_EQ(a.blocks[i].rows, b.blocks[i].rows);
      }
    }
  }
}

TEST(Layout, HeaderSizeDoesNotDependOnChecksums) {
  absl::StatusOr<ModelFile> model =
      ModelFile::Lay(testing::Describe(testing::TinyChatGlm2Config()), {DType::kI8, 0});
  ASSERT_TRUE(model.ok()) << model.status();
  const size_t size = HeaderText(*model).size();
  for (StoredTensor& tensor : model->tensors) {
    for (Block& block : tensor.blocks) block.checksum = UINT64_MAX - block.row_begin;
  }
  EXPECT_EQ(HeaderText(*model).size(), size);
}

TEST(CutBlocks, SplitsEvenlyByWholePanels) {
  // 100 panels of 16 * 4096 + 64 bytes, of which 15 fit a block.
  TensorSpec tensor{.name = "w", .shape = {1591, 4096}, .use = TensorUse::kEmbedding};
  absl::StatusOr<std::vector<Block>> blocks = CutBlocks(tensor, {DType::kI8, 0});
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  ASSERT_EQ(blocks->size(), 7u);
  for (size_t i = 0; i + 1 < blocks->size(); ++i) {
    EXPECT_EQ((*blocks)[i].rows, 15 * 16);
  }
  EXPECT_EQ(blocks->back().rows % 16, 1591 % 16);
  tensor.use = TensorUse::kMatrix;
  tensor.shape = {91 * 16, 4096};
  blocks = CutBlocks(tensor, {DType::kI8, 0});
  ASSERT_TRUE(blocks.ok());
  ASSERT_EQ(blocks->size(), 7u);
  for (const Block& block : *blocks) {
    EXPECT_EQ(block.rows, 13 * 16) << "even, rather than six of 15 and a crumb";
  }
}

TEST(CutBlocks, OnePanelMayExceedTheUsualSizeButNotTheLargest) {
  const TensorSpec wide{.name = "wide", .shape = {33, 300'000}};
  const absl::StatusOr<std::vector<Block>> blocks = CutBlocks(wide, {DType::kF32, 0});
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_EQ(blocks->size(), 3u);
  const TensorSpec wider{.name = "wider", .shape = {33, 600'000}};
  EXPECT_TRUE(FailsWith(CutBlocks(wider, {DType::kF32, 0}).status(), StatusCode::kInvalidArgument,
                        "tensor 'wider': 16 rows of 600000 columns take 38400000 bytes in f32"));
  EXPECT_TRUE(CutBlocks(wider, {DType::kF16, 0}).ok());
}

TEST(CutBlocks, RefusesShapesThatMakeNoSense) {
  const int64_t huge = int64_t{1} << 40;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{},
                                         {16},
                                         {0, 16},
                                         {16, 0},
                                         {-1, 16},
                                         {huge, 16},
                                         {16, huge},
                                         {16, 16, 16},
                                         {int64_t{1} << 31, int64_t{1} << 31}}) {
    EXPECT_TRUE(FailsWith(CutBlocks({.name = "w", .shape = shape}, {DType::kI8, 0}).status(),
                          StatusCode::kInvalidArgument, "tensor 'w'"));
  }
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {}, {0}, {huge}, {int64_t{1} << 31, int64_t{1} << 31, int64_t{1} << 31}}) {
    EXPECT_TRUE(FailsWith(
        CutBlocks({.name = "c", .shape = shape, .use = TensorUse::kConstant}, {}).status(),
        StatusCode::kInvalidArgument, "tensor 'c'"));
  }
}

TEST(Layout, RefusesFormatsThatDoNotExist) {
  const ModelSpec spec = testing::Describe(testing::TinyChatGlm2Config());
  EXPECT_TRUE(FailsWith(ModelFile::Lay(spec, {DType::kI4, 48}).status(),
                        StatusCode::kInvalidArgument, "groups of 48"));
  EXPECT_TRUE(FailsWith(ModelFile::Lay(spec, {DType::kI8, 32}).status(),
                        StatusCode::kInvalidArgument, "int8 with groups of 32"));
}

}  // namespace
}  // namespace qianyi
