// What the storage tests share: temporary folders, safetensors files made by hand, and the
// smallest models that have every kind of tensor.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "runtime/model_spec.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/reader.h"

namespace qianyi::testing {

// A folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const;
  // Names of everything in it, hidden ones too.
  std::vector<std::string> Names() const;

 private:
  std::string path_;
};

void WriteText(const std::string& path, std::string_view text);
std::string ReadText(const std::string& path);

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
TestTensor F32Tensor(std::string name, std::vector<int64_t> shape, const std::vector<float>& data);

// A file as the format wants it; `metadata` is the text of a JSON object or "".
std::string SafetensorsText(const std::vector<TestTensor>& tensors, std::string_view metadata = "");
// Length, header and `data_bytes` bytes.
std::string WithHeader(std::string_view json, uint64_t data_bytes);

// config.json of models with 1 layer, one of each family: odd sizes, every use of a tensor.
std::string TinyChatGlm2Config();
std::string TinyBlockLmConfig();
ModelSpec Describe(std::string_view config);

// A deterministic weight, different for every tensor, row and column.
float WeightAt(const std::string& tensor, int64_t index);
// All weights of a model as a checkpoint of F32 tensors.
std::vector<TestTensor> TinyWeights(const ModelSpec& spec);
// config.json and model.safetensors of TinyWeights.
void WriteCheckpoint(const std::string& folder, std::string_view config);

// The block's exact bytes, read with plain reads.
std::string ReadBlock(const ModelFile& model, const Block& block);
// A tensor's weights in f32, from all its blocks.
std::vector<float> ReadTensor(const ModelFile& model, const StoredTensor& tensor);

// That a call failed with this code, and these words in its message.
::testing::AssertionResult FailsWith(const absl::Status& status, absl::StatusCode code,
                                     const std::string& words);
#define EXPECT_OK(expression)                    \
  do {                                           \
    const absl::Status ok_status = (expression); \
    EXPECT_TRUE(ok_status.ok()) << ok_status;    \
  } while (false)
#define ASSERT_OK(expression)                    \
  do {                                           \
    const absl::Status ok_status = (expression); \
    ASSERT_TRUE(ok_status.ok()) << ok_status;    \
  } while (false)

}  // namespace qianyi::testing
