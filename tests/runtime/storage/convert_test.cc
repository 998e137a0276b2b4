#include "runtime/storage/convert.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/packed.h"
#include "runtime/storage/model_file.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::TempFolder;
using testing::TestTensor;

// Large enough for several blocks of streamed matrices (8 MiB) and embeddings (1 MiB).
constexpr char kManyBlocksConfig[] =
    R"({"model_type":"chatglm","num_layers":1,"padded_vocab_size":20003,"hidden_size":64,)"
    R"("ffn_hidden_size":20000,"kv_channels":8,"num_attention_heads":8,)"
    R"("multi_query_group_num":1,"seq_length":64})";

// The most that a weight may be off in a format, given the largest weight of its row.
float Tolerance(PackedFormat format, float value, float row_absmax) {
  switch (format.dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return std::abs(value) * 0x1p-11f + 0x1p-25f;
    case DType::kBF16:
      return std::abs(value) * 0x1p-8f;
    case DType::kI8:
      return row_absmax / 127 * 0.501f;
    case DType::kI4:
      return row_absmax / 5;  // scales minimise the squared error, so the largest are cut
  }
  return 0;
}

struct RoundTrip {
  const char* name;
  std::string config;
  PackedFormat format;
  int threads;
};

class Converting : public ::testing::TestWithParam<RoundTrip> {};

TEST_P(Converting, KeepsEveryWeightWithinTheFormatsError) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", GetParam().config);
  ASSERT_OK(Convert({.source = folder / "source",
                     .destination = folder / "model",
                     .format = GetParam().format,
                     .threads = GetParam().threads},
                    nullptr));
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "model");
  ASSERT_TRUE(model.ok()) << model.status();
  for (const StoredTensor& tensor : model->tensors) {
    EXPECT_EQ(tensor.original_dtype, "F32");
    EXPECT_EQ(tensor.format, FormatFor(tensor.spec, GetParam().format));
    const std::vector<float> values = testing::ReadTensor(*model, tensor);
    const int64_t cols = tensor.spec.cols();
    ASSERT_EQ(values.size(), static_cast<size_t>(tensor.spec.rows() * cols));
    for (int64_t row = 0; row < tensor.spec.rows(); ++row) {
      float absmax = 0;
      for (int64_t c = 0; c < cols; ++c) {
        absmax = std::max(absmax, std::abs(testing::WeightAt(tensor.spec.name, row * cols + c)));
      }
      for (int64_t c = 0; c < cols; ++c) {
        const float expected = testing::WeightAt(tensor.spec.name, row * cols + c);
        ASSERT_NEAR(values[row * cols + c], expected, Tolerance(tensor.format, expected, absmax))
            << tensor.spec.name << " row " << row << " column " << c;
      }
    }
  }
}

TEST_P(Converting, BlocksAreWhatPackingTheWholeTensorGives) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", GetParam().config);
  ASSERT_OK(Convert({.source = folder / "source",
                     .destination = folder / "model",
                     .format = GetParam().format,
                     .threads = GetParam().threads},
                    nullptr));
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "model");
  ASSERT_TRUE(model.ok()) << model.status();
  size_t most_blocks = 0;
  for (const StoredTensor& tensor : model->tensors) {
    most_blocks = std::max(most_blocks, tensor.blocks.size());
    if (tensor.spec.use == TensorUse::kConstant) continue;
    const int64_t rows = tensor.spec.rows(), cols = tensor.spec.cols();
    std::vector<float> values(rows * cols);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = testing::WeightAt(tensor.spec.name, static_cast<int64_t>(i));
    }
    std::string packed(PackedBytes(tensor.format, rows, cols), '\0');
    PackRows(tensor.format, values.data(), rows, cols, cols,
             reinterpret_cast<std::byte*>(packed.data()));
    std::string stored;
    for (const Block& block : tensor.blocks) stored += testing::ReadBlock(*model, block);
    EXPECT_TRUE(stored == packed) << tensor.spec.name;
  }
  EXPECT_EQ(most_blocks >= 2, GetParam().config == kManyBlocksConfig);
}

INSTANTIATE_TEST_SUITE_P(
    All, Converting,
    ::testing::Values(
        RoundTrip{"ChatGlm2F32", testing::TinyChatGlm2Config(), {DType::kF32, 0}, 1},
        RoundTrip{"ChatGlm2F16", testing::TinyChatGlm2Config(), {DType::kF16, 0}, 2},
        RoundTrip{"ChatGlm2BF16", testing::TinyChatGlm2Config(), {DType::kBF16, 0}, 1},
        RoundTrip{"ChatGlm2Int8", testing::TinyChatGlm2Config(), {DType::kI8, 0}, 3},
        RoundTrip{"ChatGlm2Int4Rows", testing::TinyChatGlm2Config(), {DType::kI4, 0}, 1},
        RoundTrip{"ChatGlm2Int4", testing::TinyChatGlm2Config(), {DType::kI4, 32}, 2},
        RoundTrip{"ManyBlocksF32", kManyBlocksConfig, {DType::kF32, 0}, 3},
        RoundTrip{"ManyBlocksInt8", kManyBlocksConfig, {DType::kI8, 0}, 2},
        RoundTrip{"BlockLmF32", testing::TinyBlockLmConfig(), {DType::kF32, 0}, 4},
        RoundTrip{"BlockLmInt8", testing::TinyBlockLmConfig(), {DType::kI8, 0}, 1},
        RoundTrip{"BlockLmInt4", testing::TinyBlockLmConfig(), {DType::kI4, 32}, 1},
        RoundTrip{"BlockLmInt4Wide", testing::TinyBlockLmConfig(), {DType::kI4, 64}, 1}),
    [](const auto& param) { return std::string(param.param.name); });

// Folders to spoil before converting.
class ConvertFails : public ::testing::Test {
 protected:
  ConvertFails() : spec_(testing::Describe(testing::TinyChatGlm2Config())) {
    tensors_ = testing::TinyWeights(spec_);
    std::filesystem::create_directory(source_);
    testing::WriteText(source_ + "/config.json", testing::TinyChatGlm2Config());
  }
  void Store() {
    testing::WriteText(source_ + "/model.safetensors", testing::SafetensorsText(tensors_));
  }
  absl::Status StoreAndConvert(PackedFormat format = {DType::kI8, 0}) {
    Store();
    return Run(format);
  }
  absl::Status Run(PackedFormat format = {DType::kI8, 0}) {
    return Convert(
        {.source = source_, .destination = folder_ / "out", .format = format, .threads = 2},
        nullptr);
  }
  TestTensor& Tensor(const std::string& name) {
    for (TestTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }
  // Nothing but the source is there.
  void ExpectNothingLeft() { EXPECT_EQ(folder_.Names(), (std::vector<std::string>{"source"})); }

  static constexpr char kDense[] = "transformer.encoder.layers.0.self_attention.dense.weight";
  TempFolder folder_;
  const std::string source_ = folder_ / "source";
  ModelSpec spec_;
  std::vector<TestTensor> tensors_;
};

TEST_F(ConvertFails, MissingTensorsAreListed) {
  std::erase_if(tensors_, [](const TestTensor& tensor) {
    return tensor.name == kDense || tensor.name == "transformer.output_layer.weight";
  });
  const absl::Status status = StoreAndConvert();
  EXPECT_TRUE(FailsWith(status, StatusCode::kNotFound,
                        std::string(kDense) + ", transformer.output_layer.weight"));
  EXPECT_TRUE(FailsWith(status, StatusCode::kNotFound, "lacks 2 of the 10 tensors"));
  tensors_.clear();
  EXPECT_TRUE(FailsWith(StoreAndConvert(), StatusCode::kNotFound, "and 2 more"));
  ExpectNothingLeft();
}

TEST_F(ConvertFails, WrongShapesNameBoth) {
  Tensor(kDense).shape = {20, 80};
  EXPECT_TRUE(FailsWith(StoreAndConvert(), StatusCode::kInvalidArgument,
                        "has the shape [20, 80], but config.json asks for [40, 40]"));
  ExpectNothingLeft();
}

TEST_F(ConvertFails, IntegerTensorsAreRefused) {
  Tensor(kDense).dtype = "I32";
  EXPECT_TRUE(FailsWith(StoreAndConvert(), StatusCode::kInvalidArgument,
                        "is I32; convert reads F32, F16, BF16, "));
  ExpectNothingLeft();
}

TEST_F(ConvertFails, WeightsThatAreNoNumbersAreFound) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    for (const char* name : {kDense, "transformer.encoder.final_layernorm.weight"}) {
      const std::string saved = Tensor(name).bytes;
      const size_t index = std::string_view(name) == kDense ? 23 * 40 + 7 : 23;
      std::memcpy(Tensor(name).bytes.data() + index * 4, &value, 4);
      const absl::Status status = StoreAndConvert();
      EXPECT_TRUE(FailsWith(status, StatusCode::kInvalidArgument, std::string("'") + name + "'"));
      EXPECT_TRUE(FailsWith(status, StatusCode::kInvalidArgument, "in row 23, column "));
      Tensor(name).bytes = saved;
    }
  }
  ExpectNothingLeft();
}

TEST_F(ConvertFails, WeightsTooLargeForAHalfAreFound) {
  const auto with = [&](float value, PackedFormat format) {
    std::memcpy(Tensor(kDense).bytes.data(), &value, 4);
    std::filesystem::remove_all(folder_ / "out");
    return StoreAndConvert(format);
  };
  EXPECT_TRUE(FailsWith(with(65520.0f, {DType::kF16, 0}), StatusCode::kInvalidArgument,
                        "value 65520 in row 0, column 0, too large for f16"));
  EXPECT_OK(with(65519.0f, {DType::kF16, 0}));
  EXPECT_EQ(HalfToFloat(FloatToHalf(65519.0f)), 65504.0f);
  EXPECT_OK(with(65520.0f, {DType::kBF16, 0}));
  EXPECT_TRUE(FailsWith(with(3.4e38f, {DType::kBF16, 0}), StatusCode::kInvalidArgument,
                        "too large for bf16"));
  EXPECT_OK(with(3.4e38f, {DType::kF32, 0}));
}

TEST_F(ConvertFails, ADestinationWithSomethingInItIsLeftAlone) {
  std::filesystem::create_directory(folder_ / "out");
  testing::WriteText(folder_ / "out/precious", "x");
  EXPECT_TRUE(FailsWith(StoreAndConvert(), StatusCode::kAlreadyExists, "remove it or choose"));
  EXPECT_EQ(testing::ReadText(folder_ / "out/precious"), "x");
  std::filesystem::remove(folder_ / "out/precious");
  EXPECT_OK(StoreAndConvert());
  EXPECT_TRUE(ModelFile::Open(folder_ / "out").ok());
}

TEST_F(ConvertFails, WhatIsConvertedAlreadyIsNotASource) {
  Store();
  ASSERT_OK(Run());
  EXPECT_TRUE(
      FailsWith(Convert({.source = folder_ / "out", .destination = folder_ / "again"}, nullptr),
                StatusCode::kInvalidArgument, "is in streaming layout already"));
}

TEST_F(ConvertFails, ConfigIsMissingOrUnknown) {
  Store();
  testing::WriteText(source_ + "/config.json", R"({"model_type":"llama"})");
  EXPECT_TRUE(FailsWith(Run(), StatusCode::kInvalidArgument, "llama"));
  std::filesystem::remove(source_ + "/config.json");
  EXPECT_TRUE(FailsWith(Run(), StatusCode::kNotFound, "config.json"));
  ExpectNothingLeft();
}

TEST_F(ConvertFails, ATruncatedShardIsFoundBeforeAnythingIsWritten) {
  Store();
  std::filesystem::resize_file(source_ + "/model.safetensors", 5000);
  EXPECT_TRUE(FailsWith(Run(), StatusCode::kOutOfRange, "truncated?"));
  ExpectNothingLeft();
}

TEST(Convert, ReadsHalvesAndShards) {
  TempFolder folder;
  const std::string config = testing::TinyChatGlm2Config();
  std::vector<TestTensor> tensors = testing::TinyWeights(testing::Describe(config));
  std::vector<TestTensor> shards[2];
  std::string map;
  for (size_t t = 0; t < tensors.size(); ++t) {
    TestTensor& tensor = tensors[t];
    std::string halves;
    for (size_t i = 0; i < tensor.bytes.size() / 4; ++i) {
      const float value = testing::WeightAt(tensor.name, static_cast<int64_t>(i));
      const uint16_t bits = t % 2 == 0 ? FloatToHalf(value) : FloatToBFloat16(value);
      halves.append(reinterpret_cast<const char*>(&bits), 2);
    }
    shards[t % 2].push_back({tensor.name, t % 2 == 0 ? "F16" : "BF16", tensor.shape, halves});
    map +=
        (t == 0 ? "\"" : ",\"") + tensor.name + "\":\"s" + std::to_string(t % 2) + ".safetensors\"";
  }
  const std::string source = folder / "source";
  std::filesystem::create_directory(source);
  testing::WriteText(source + "/config.json", config);
  testing::WriteText(source + "/s0.safetensors", testing::SafetensorsText(shards[0]));
  testing::WriteText(source + "/s1.safetensors", testing::SafetensorsText(shards[1]));
  testing::WriteText(source + "/model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
  ASSERT_OK(Convert({.source = source, .destination = folder / "out", .format = {DType::kF32, 0}},
                    nullptr));
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "out");
  ASSERT_TRUE(model.ok()) << model.status();
  for (size_t t = 0; t < model->tensors.size(); ++t) {
    const StoredTensor& tensor = model->tensors[t];
    EXPECT_EQ(tensor.original_dtype, t % 2 == 0 ? "F16" : "BF16");
    const std::vector<float> values = testing::ReadTensor(*model, tensor);
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = testing::WeightAt(tensor.spec.name, static_cast<int64_t>(i));
      ASSERT_EQ(values[i], t % 2 == 0 ? HalfToFloat(FloatToHalf(value))
                                      : BFloat16ToFloat(FloatToBFloat16(value)));
    }
  }
}

TEST(Convert, ReportsProgressAndWhatItLeavesOut) {
  TempFolder folder;
  const std::string config = testing::TinyBlockLmConfig();
  std::vector<TestTensor> tensors = testing::TinyWeights(testing::Describe(config));
  tensors.push_back(testing::F32Tensor("transformer.rotary_pos_emb.inv_freq", {2}, {1, 2}));
  std::filesystem::create_directory(folder / "source");
  testing::WriteText(folder / "source/config.json", config);
  testing::WriteText(folder / "source/model.safetensors", testing::SafetensorsText(tensors));
  std::vector<std::string> notes;
  uint64_t last = 0, total = 0, calls = 0;
  ASSERT_OK(Convert({.source = folder / "source",
                     .destination = folder / "out/",
                     .format = {DType::kI4, 32},
                     .threads = 3},
                    [&](const Progress& progress) {
                      if (!progress.note.empty()) return notes.emplace_back(progress.note), void();
                      EXPECT_GT(progress.done_bytes, last);
                      EXPECT_FALSE(progress.tensor.empty());
                      last = progress.done_bytes;
                      total = progress.total_bytes;
                      ++calls;
                    }));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("transformer.rotary_pos_emb.inv_freq"), std::string::npos);
  EXPECT_EQ(last, total);
  EXPECT_EQ(calls, tensors.size() - 1);
}

TEST(Convert, TakesTokenizerFilesAlong) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", testing::TinyChatGlm2Config());
  const std::vector<std::string> wanted = {"tokenizer.model",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.json",
                                           "vocab.tiktoken",
                                           "tokenizer_config.json",
                                           "added_tokens.json",
                                           "special_tokens_map.json",
                                           "generation_config.json"};
  for (const std::string& name : wanted) testing::WriteText(folder / ("source/" + name), name);
  testing::WriteText(folder / "source/README.md", "not this");
  testing::WriteText(folder / "elsewhere", "linked");
  std::filesystem::create_symlink(folder / "elsewhere", folder / "source/linked.model");
  ASSERT_OK(Convert({.source = folder / "source", .destination = folder / "out"}, nullptr));
  for (const std::string& name : wanted) {
    EXPECT_EQ(testing::ReadText(folder / ("out/" + name)), name);
  }
  EXPECT_EQ(testing::ReadText(folder / "out/linked.model"), "linked");
  EXPECT_FALSE(std::filesystem::is_symlink(folder / "out/linked.model"));
  EXPECT_EQ(testing::ReadText(folder / "out/config.json"), testing::TinyChatGlm2Config());
  EXPECT_FALSE(std::filesystem::exists(folder / "out/README.md"));
}

TEST(Convert, IsDeterministicWhateverTheThreads) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", testing::TinyBlockLmConfig());
  for (const int threads : {1, 4}) {
    ASSERT_OK(Convert({.source = folder / "source",
                       .destination = folder / std::to_string(threads),
                       .format = {DType::kI4, 32},
                       .threads = threads},
                      nullptr));
  }
  EXPECT_EQ(testing::ReadText(folder / "1/model.safetensors"),
            testing::ReadText(folder / "4/model.safetensors"));
}

// GLM-130B's layout: rows by head, and integers with a scale per row.
constexpr char kIntegerConfig[] =
    R"({"model_type":"glm-130b","num_layers":1,"vocab_size":70,"hidden_size":60,)"
    R"("inner_hidden_size":34,"num_attention_heads":6,"max_sequence_length":32,)"
    R"("special_token_ids":{"sop":60,"[gMASK]":63}})";

// Integers for a matrix, and its scales; int4 packs the even column into the high bits.
struct IntegerTensor {
  std::vector<int> values;
  std::vector<float> scales;

  IntegerTensor(const TensorSpec& spec, int bits) {
    const int most = bits == 4 ? 7 : 127;
    for (int64_t i = 0; i < spec.rows() * spec.cols(); ++i) {
      values.push_back(static_cast<int>(i * 37 + i / 11) % (2 * most + 1) - most);
    }
    for (int64_t r = 0; r < spec.rows(); ++r) {
      scales.push_back(testing::RoundToF16(0.001f * static_cast<float>(r % 19 + 1)));
    }
  }
  std::vector<TestTensor> Tensors(const TensorSpec& spec, int bits) const {
    TestTensor weight{spec.name, "I8", {spec.rows(), spec.cols() * bits / 8}, ""};
    for (size_t i = 0; i < values.size(); i += bits == 4 ? 2 : 1) {
      const int byte = bits == 4 ? values[i] << 4 | (values[i + 1] & 15) : values[i];
      weight.bytes.push_back(static_cast<char>(byte));
    }
    return {weight, testing::F16Tensor(spec.name + "_scale", {spec.rows()}, scales)};
  }
  // Row `row` of ours in the checkpoint, where q, k and v of a head stand together.
  static int64_t SourceRow(const TensorSpec& spec, int64_t row) {
    if (spec.name.find("query_key_value") == std::string::npos) return row;
    const int64_t heads = 6, dim = spec.rows() / 3 / heads;
    return (row / dim % heads * 3 + row / (heads * dim)) * dim + row % dim;
  }
};

class ConvertingIntegers : public ::testing::TestWithParam<std::pair<int, PackedFormat>> {};

TEST_P(ConvertingIntegers, KeepsThemOrTheirValues) {
  const auto [bits, requested] = GetParam();
  const ModelSpec spec = testing::Describe(kIntegerConfig);
  TempFolder folder;
  std::filesystem::create_directory(folder / "source");
  testing::WriteText(folder / "source/config.json", kIntegerConfig);
  std::vector<TestTensor> tensors;
  for (const TensorSpec& tensor : spec.tensors) {
    if (tensor.use == TensorUse::kMatrix) {
      const auto both = IntegerTensor(tensor, bits).Tensors(tensor, bits);
      tensors.insert(tensors.end(), both.begin(), both.end());
      continue;
    }
    std::vector<float> values(tensor.rows() * tensor.cols());
    for (size_t i = 0; i < values.size(); ++i) values[i] = testing::WeightAt(tensor.name, i);
    tensors.push_back(testing::F32Tensor(tensor.name, tensor.shape, values));
  }
  testing::WriteText(folder / "source/model.safetensors", testing::SafetensorsText(tensors));
  std::vector<std::string> notes;
  ASSERT_OK(
      Convert({.source = folder / "source", .destination = folder / "model", .format = requested},
              [&](const Progress& progress) {
                if (!progress.note.empty()) notes.emplace_back(progress.note);
              }));
  EXPECT_TRUE(notes.empty()) << notes.front();
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "model");
  ASSERT_TRUE(model.ok()) << model.status();
  for (const StoredTensor& tensor : model->tensors) {
    const std::vector<float> stored = testing::ReadTensor(*model, tensor);
    const TensorSpec& at = tensor.spec;
    if (at.use == TensorUse::kConstant) {
      for (int64_t r = 0; r < at.rows(); ++r) {
        ASSERT_EQ(stored[r], testing::WeightAt(at.name, IntegerTensor::SourceRow(at, r)));
      }
    }
    if (at.use != TensorUse::kMatrix) continue;
    EXPECT_EQ(tensor.original_dtype, bits == 4 ? "I4" : "I8");
    if (requested.integer()) {
      EXPECT_EQ(tensor.format, (PackedFormat{bits == 4 ? DType::kI4 : DType::kI8, 0}));
    }
    const IntegerTensor original(at, bits);
    for (int64_t r = 0; r < at.rows(); ++r) {
      const int64_t from = IntegerTensor::SourceRow(at, r);
      for (int64_t c = 0; c < at.cols(); ++c) {
        const float value =
            static_cast<float>(original.values[from * at.cols() + c]) * original.scales[from];
        ASSERT_EQ(stored[r * at.cols() + c], value) << at.name << " row " << r << " column " << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ConvertingIntegers,
                         ::testing::Values(std::pair{8, PackedFormat{DType::kF32}},
                                           std::pair{4, PackedFormat{DType::kF32}},
                                           std::pair{8, PackedFormat{DType::kI8}},
                                           std::pair{4, PackedFormat{DType::kI4, 32}},
                                           std::pair{4, PackedFormat{DType::kI8}}));

TEST(ConvertingIntegersTest, RefusesWhatMakesNoSense) {
  const ModelSpec spec = testing::Describe(kIntegerConfig);
  const auto fails = [&](const std::string& words, auto change) {
    TempFolder folder;
    std::filesystem::create_directory(folder / "source");
    testing::WriteText(folder / "source/config.json", kIntegerConfig);
    std::vector<TestTensor> tensors = testing::TinyWeights(spec);
    const std::string name = "transformer.layers.0.attention.dense.weight";
    std::erase_if(tensors, [&](const TestTensor& tensor) { return tensor.name == name; });
    for (const TensorSpec& at : spec.tensors) {
      if (at.name != name) continue;
      const auto both = IntegerTensor(at, 8).Tensors(at, 8);
      tensors.insert(tensors.end(), both.begin(), both.end());
    }
    change(tensors, name);
    testing::WriteText(folder / "source/model.safetensors", testing::SafetensorsText(tensors));
    EXPECT_TRUE(FailsWith(
        Convert(
            {.source = folder / "source", .destination = folder / "model", .format = {DType::kI8}},
            nullptr),
        StatusCode::kInvalidArgument, words));
  };
  fails("dense.weight_scale", [](std::vector<TestTensor>& tensors, const std::string& name) {
    std::erase_if(tensors, [&](const TestTensor& t) { return t.name == name + "_scale"; });
  });
  fails("a scale for each row", [](std::vector<TestTensor>& tensors, const std::string& name) {
    TestTensor& scale = testing::Named(tensors, name + "_scale");
    scale.shape[0] -= 1;
    scale.bytes.resize(scale.bytes.size() - 2);
  });
  fails("damaged", [](std::vector<TestTensor>& tensors, const std::string& name) {
    testing::Named(tensors, name + "_scale").bytes.replace(0, 2, "\xff\x7f");
  });
  fails("-128", [](std::vector<TestTensor>& tensors, const std::string& name) {
    testing::Named(tensors, name).bytes[5] = static_cast<char>(-128);
  });
  fails("has the shape", [](std::vector<TestTensor>& tensors, const std::string& name) {
    TestTensor& weight = testing::Named(tensors, name);
    weight.shape[1] -= 1;
    weight.bytes.resize(weight.shape[0] * weight.shape[1]);
  });
}

// Parts of the heads of one matrix: GLM-4.7-Flash's kv_b_proj, keys transposed, values as they are.
TEST(ConvertingHeadsTest, TakesItsPartOfEveryHead) {
  constexpr int64_t kHeads = 3, kPlain = 5, kRank = 32, kValue = 16, kHeadRows = kPlain + kValue;
  const std::string config =
      R"({"model_type":"glm4_moe_lite","num_hidden_layers":1,"hidden_size":20,)"
      R"("intermediate_size":24,"num_attention_heads":3,"kv_lora_rank":32,"qk_nope_head_dim":5,)"
      R"("qk_rope_head_dim":4,"v_head_dim":16,"vocab_size":40,"max_position_embeddings":64,)"
      R"("first_k_dense_replace":1,"n_routed_experts":4,"num_experts_per_tok":2,)"
      R"("moe_intermediate_size":8})";
  const std::string whole = "model.layers.0.self_attn.kv_b_proj.weight";
  TempFolder folder;
  std::filesystem::create_directory(folder / "source");
  testing::WriteText(folder / "source/config.json", config);
  std::vector<TestTensor> tensors = testing::TinyWeights(testing::Describe(config));
  std::erase_if(tensors, [&](const TestTensor& tensor) { return tensor.name.starts_with(whole); });
  std::vector<float> values(kHeads * kHeadRows * kRank);
  for (size_t i = 0; i < values.size(); ++i) values[i] = testing::WeightAt(whole, i);
  tensors.push_back(testing::F32Tensor(whole, {kHeads * kHeadRows, kRank}, values));
  testing::WriteText(folder / "source/model.safetensors", testing::SafetensorsText(tensors));
  const auto convert = [&] {
    std::filesystem::remove_all(folder / "model");
    return Convert(
        {.source = folder / "source", .destination = folder / "model", .format = {DType::kF32}},
        nullptr);
  };
  ASSERT_OK(convert());
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "model");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto read = [&](const std::string& name) {
    return testing::ReadTensor(*model, model->tensors[model->Find(name)]);
  };
  const std::vector<float> keys = read(whole + ".keys"), parts = read(whole + ".values");
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t r = 0; r < kRank; ++r) {
      for (int64_t c = 0; c < kPlain; ++c) {
        ASSERT_EQ(keys[(h * kRank + r) * kPlain + c], values[(h * kHeadRows + c) * kRank + r]);
      }
      for (int64_t v = 0; v < kValue; ++v) {
        ASSERT_EQ(parts[(h * kValue + v) * kRank + r],
                  values[(h * kHeadRows + kPlain + v) * kRank + r]);
      }
    }
  }
  testing::Named(tensors, whole).shape = {kHeads * kRank, kHeadRows};
  testing::WriteText(folder / "source/model.safetensors", testing::SafetensorsText(tensors));
  EXPECT_TRUE(FailsWith(convert(), StatusCode::kInvalidArgument, "config.json asks for [63, 32]"));
}

}  // namespace
}  // namespace qianyi
