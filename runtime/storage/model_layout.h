// How tensors become blocks and blocks become a file. Shared by ModelFile::Lay, the writer
// and ModelFile::Open, so that what is laid out, written and expected cannot differ.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {

inline constexpr std::string_view kModelFileName = "model.safetensors";
inline constexpr std::string_view kFormatKey = "qianyi_format";
inline constexpr std::string_view kFormatVersion = "1";
inline constexpr std::string_view kTensorKeyPrefix = "tensor:";
inline constexpr std::string_view kPaddingPrefix = "__pad.";

constexpr uint64_t RoundUpToPage(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// InvalidArgument unless the shape is what the tensor's use needs, and small enough that no
// product of sizes can overflow.
absl::Status CheckShape(const TensorSpec& tensor);

// The row blocks of a tensor in `format`, without offsets: even ones of whole panels that
// fit the size we write, one block for a constant. InvalidArgument as from CheckShape, and
// when a panel exceeds kMaxBlockBytes.
absl::StatusOr<std::vector<Block>> CutBlocks(const TensorSpec& tensor, PackedFormat format);

// Exact bytes of `rows` rows of a tensor.
uint64_t BlockBytes(const TensorSpec& tensor, PackedFormat format, int64_t rows);

// The model as one file: constants first, then everything in execution order.
// `original_dtypes` has one entry per tensor. `files` and `folder` are left empty.
absl::StatusOr<ModelFile> LayOut(const ModelSpec& spec, PackedFormat requested,
                                 const std::vector<std::string>& original_dtypes);

// Indices of tensors and their blocks in the order they stand in the file.
struct BlockIndex {
  int tensor = 0;
  int block = 0;
};
std::vector<BlockIndex> FileOrder(const ModelFile& model);

// The name under which a block stands in a safetensors file.
std::string BlockName(const StoredTensor& tensor, const Block& block);

// Everything before the first block of a model that LayOut made: length, JSON with the
// checksums as they are now, spaces. Its size does not depend on the checksums.
std::string HeaderText(const ModelFile& model);

// The table of contents that the headers of a folder's files (in name order) and its
// config.json describe, or what is wrong with them.
absl::StatusOr<ModelFile> ReadContents(const std::string& folder, std::string_view config_json,
                                       const std::vector<Safetensors>& files);

}  // namespace qianyi
