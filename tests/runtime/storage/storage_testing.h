// What the storage tests share: the smallest models that have every kind of tensor.
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
#include "tests/support/safetensors_text.h"
#include "tests/support/temp_folder.h"

namespace qianyi::testing {

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
