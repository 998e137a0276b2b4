#include "tests/runtime/storage/storage_testing.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/packed.h"
#include "runtime/models/registry.h"
#include "xxhash.h"

namespace qianyi::testing {

std::string TinyChatGlm2Config() {
  return R"({"model_type":"chatglm","num_layers":1,"padded_vocab_size":77,"hidden_size":40,)"
         R"("ffn_hidden_size":34,"kv_channels":8,"num_attention_heads":5,)"
         R"("multi_query_group_num":1,"seq_length":64,"eos_token_id":2})";
}

std::string TinyBlockLmConfig() {
  return R"({"model_type":"glm","num_layers":1,"vocab_size":70,"hidden_size":64,)"
         R"("num_attention_heads":4,"max_sequence_length":32,)"
         R"("special_token_ids":{"sop":60,"eop":61,"MASK":62,"gMASK":63,"sMASK":64}})";
}

ModelSpec Describe(std::string_view config) {
  absl::StatusOr<ModelSpec> spec = DescribeModel(config);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec{};
}

float WeightAt(const std::string& tensor, int64_t index) {
  const uint64_t bits = XXH3_64bits_withSeed(tensor.data(), tensor.size(), index);
  return static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-34f;
}

std::vector<TestTensor> TinyWeights(const ModelSpec& spec) {
  std::vector<TestTensor> tensors;
  for (const TensorSpec& tensor : spec.tensors) {
    std::vector<float> values(tensor.rows() * tensor.cols());
    for (size_t i = 0; i < values.size(); ++i) values[i] = WeightAt(tensor.name, i);
    tensors.push_back(F32Tensor(tensor.name, tensor.shape, values));
  }
  return tensors;
}

void WriteCheckpoint(const std::string& folder, std::string_view config) {
  std::filesystem::create_directory(folder);
  WriteText(folder + "/config.json", config);
  WriteText(folder + "/model.safetensors", SafetensorsText(TinyWeights(Describe(config))));
}

std::string ReadBlock(const ModelFile& model, const Block& block) {
  std::ifstream in(model.files[block.file], std::ios::binary);
  in.seekg(static_cast<std::streamoff>(block.offset));
  std::string bytes(block.bytes, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(block.bytes));
  EXPECT_TRUE(in.good()) << model.files[block.file];
  return bytes;
}

std::vector<float> ReadTensor(const ModelFile& model, const StoredTensor& tensor) {
  const int64_t cols = tensor.spec.cols();
  std::vector<float> values(tensor.spec.rows() * cols);
  for (const Block& block : tensor.blocks) {
    const std::string bytes = ReadBlock(model, block);
    EXPECT_EQ(XXH3_64bits(bytes.data(), bytes.size()), block.checksum) << tensor.spec.name;
    float* out = values.data() + block.row_begin * cols;
    if (tensor.spec.use == TensorUse::kConstant) {
      std::memcpy(out, bytes.data(), bytes.size());
      continue;
    }
    UnpackRows({.data = reinterpret_cast<const std::byte*>(bytes.data()),
                .format = tensor.format,
                .rows = block.rows,
                .cols = cols},
               out);
  }
  return values;
}

::testing::AssertionResult FailsWith(const absl::Status& status, absl::StatusCode code,
                                     const std::string& words) {
  if (status.code() == code && status.ToString().find(words) != std::string::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "got " << status << "\nexpected "
                                       << absl::StatusCodeToString(code) << " with: " << words;
}

}  // namespace qianyi::testing
