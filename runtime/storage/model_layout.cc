#include "runtime/storage/model_layout.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/storage/format.h"
#include "runtime/storage/shape_text.h"

namespace qianyi {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr uint64_t kMaxModelBytes = uint64_t{1} << 46;  // 64 TiB: sizes stay far from overflow
constexpr uint64_t kMaxBlocks = 1 << 20;                // per tensor

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

// One tensor as safetensors lists it.
std::string Entry(std::string_view name, std::string_view dtype, const std::string& shape,
                  uint64_t begin, uint64_t bytes) {
  return absl::StrFormat(R"(%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]})",
                         nlohmann::json(name).dump(), dtype, shape, begin, begin + bytes);
}

// The compact JSON about one tensor that `__metadata__` holds. Checksums are fixed in width.
std::string TensorMetadata(const StoredTensor& tensor) {
  const bool constant = tensor.spec.use == TensorUse::kConstant;
  std::string blocks = absl::StrJoin(tensor.blocks, ",", [](std::string* out, const Block& block) {
    absl::StrAppendFormat(out, R"([%d,%d,"%016x"])", block.row_begin, block.rows, block.checksum);
  });
  return absl::StrFormat(
      R"({"layout":"%s","dtype":"%s","group":%d,"shape":[%s],"original_dtype":%s,"blocks":[%s]})",
      constant ? "plain" : "panels16", DTypeName(tensor.format.dtype), tensor.format.group,
      absl::StrJoin(tensor.spec.shape, ","), nlohmann::json(tensor.original_dtype).dump(), blocks);
}

std::string HeaderJson(const ModelFile& model, uint64_t data_begin, uint64_t file_bytes) {
  std::string header = absl::StrFormat(R"({"__metadata__":{"%s":"%s")", kFormatKey, kFormatVersion);
  for (const StoredTensor& tensor : model.tensors) {
    const std::string key = absl::StrFormat("%s%s", kTensorKeyPrefix, tensor.spec.name);
    absl::StrAppendFormat(&header, ",%s:%s", nlohmann::json(key).dump(),
                          nlohmann::json(TensorMetadata(tensor)).dump());
  }
  header += '}';
  uint64_t covered = data_begin;
  int pads = 0;
  const auto pad_to = [&](uint64_t offset) {
    if (covered == offset) return;
    const uint64_t bytes = offset - covered;
    header += ',';
    header += Entry(absl::StrFormat("%s%d", kPaddingPrefix, pads++), "U8",
                    absl::StrFormat("[%d]", bytes), covered - data_begin, bytes);
    covered = offset;
  };
  for (const BlockIndex& index : FileOrder(model)) {
    const StoredTensor& tensor = model.tensors[index.tensor];
    const Block& block = tensor.blocks[index.block];
    const bool constant = tensor.spec.use == TensorUse::kConstant;
    pad_to(block.offset);
    header += ',';
    header += Entry(BlockName(tensor, block), constant ? "F32" : "U8",
                    constant ? absl::StrFormat("[%s]", absl::StrJoin(tensor.spec.shape, ","))
                             : absl::StrFormat("[%d]", block.bytes),
                    block.offset - data_begin, block.bytes);
    covered += block.bytes;
  }
  pad_to(file_bytes);
  header += '}';
  return header;
}

}  // namespace

absl::Status CheckShape(const TensorSpec& tensor) {
  const bool constant = tensor.use == TensorUse::kConstant;
  bool good = constant ? !tensor.shape.empty() : tensor.shape.size() == 2;
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) {
    good = good && size > 0 && size <= kMaxDimension;
    good = good && !__builtin_mul_overflow(elements, size, &elements);
  }
  if (good && elements < static_cast<int64_t>(kMaxModelBytes / sizeof(float))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("tensor '%s' has the shape %s: a %s", tensor.name, ShapeText(tensor.shape),
                      constant ? "constant needs 1 to 2^31 per dimension and less than 64 TiB"
                               : "matrix needs 2 dimensions of 1 to 2^31 and less than 64 TiB"));
}

uint64_t BlockBytes(const TensorSpec& tensor, PackedFormat format, int64_t rows) {
  return tensor.use == TensorUse::kConstant ? Elements(tensor.shape) * sizeof(float)
                                            : PackedBytes(format, rows, tensor.cols());
}

absl::StatusOr<std::vector<Block>> CutBlocks(const TensorSpec& tensor, PackedFormat format) {
  const absl::Status shape = CheckShape(tensor);
  if (!shape.ok()) return shape;
  if (tensor.use == TensorUse::kConstant) {
    return std::vector<Block>{
        {.bytes = BlockBytes(tensor, format, tensor.rows()), .rows = tensor.rows()}};
  }
  const uint64_t panel_bytes = PanelBytes(format, tensor.cols());
  if (panel_bytes > kMaxBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tensor '%s': %d rows of %d columns take %d bytes in %s, a block may have "
                        "%d; choose a smaller dtype",
                        tensor.name, kPanelRows, tensor.cols(), panel_bytes,
                        DTypeName(format.dtype), kMaxBlockBytes));
  }
  const uint64_t wanted =
      tensor.use == TensorUse::kEmbedding ? kGatherBlockBytes : kStreamBlockBytes;
  const int64_t panels = (tensor.rows() + kPanelRows - 1) / kPanelRows;
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(wanted / panel_bytes));
  const int64_t fewest = (panels + most - 1) / most;
  // Even blocks rather than full ones and a crumb, which would cost a whole request; and all but
  // the last alike, so that those which lie side by side are multiplied in one go.
  const int64_t block_panels = (panels + fewest - 1) / fewest;
  const int64_t count = (panels + block_panels - 1) / block_panels;
  if (static_cast<uint64_t>(count) > kMaxBlocks) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tensor '%s' %s would take %d blocks, over %d", tensor.name,
                        ShapeText(tensor.shape), count, kMaxBlocks));
  }
  std::vector<Block> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * block_panels * kPanelRows;
    const int64_t end = std::min(begin + block_panels * kPanelRows, tensor.rows());
    blocks.push_back({.bytes = BlockBytes(tensor, format, end - begin),
                      .row_begin = begin,
                      .rows = end - begin});
  }
  return blocks;
}

std::vector<BlockIndex> FileOrder(const ModelFile& model) {
  std::vector<BlockIndex> order;
  for (const bool constants : {true, false}) {
    for (size_t t = 0; t < model.tensors.size(); ++t) {
      if ((model.tensors[t].spec.use == TensorUse::kConstant) != constants) continue;
      for (size_t b = 0; b < model.tensors[t].blocks.size(); ++b) {
        order.push_back({static_cast<int>(t), static_cast<int>(b)});
      }
    }
  }
  return order;
}

std::string BlockName(const StoredTensor& tensor, const Block& block) {
  if (tensor.spec.use == TensorUse::kConstant) return tensor.spec.name;
  return absl::StrFormat("%s.rows.%d", tensor.spec.name, block.row_begin);
}

absl::StatusOr<ModelFile> LayOut(const ModelSpec& spec, PackedFormat requested,
                                 const std::vector<std::string>& original_dtypes) {
  if (!IsValid(requested)) {
    return absl::InvalidArgumentError(absl::StrFormat("there is no format %s with groups of %d",
                                                      DTypeName(requested.dtype), requested.group));
  }
  ModelFile model;
  model.spec = spec;
  for (size_t i = 0; i < spec.tensors.size(); ++i) {
    StoredTensor tensor{.spec = spec.tensors[i],
                        .format = FormatFor(spec.tensors[i], requested),
                        .original_dtype = original_dtypes[i],
                        .blocks = {}};
    absl::StatusOr<std::vector<Block>> blocks = CutBlocks(tensor.spec, tensor.format);
    if (!blocks.ok()) return blocks.status();
    tensor.blocks = *std::move(blocks);
    model.tensors.push_back(std::move(tensor));
  }
  uint64_t end = 0;
  for (const BlockIndex& index : FileOrder(model)) {
    Block& block = model.tensors[index.tensor].blocks[index.block];
    block.offset = end;
    end += RoundUpToPage(block.bytes);
    if (end > kMaxModelBytes) {
      return absl::InvalidArgumentError("the model would have more than 64 TiB");
    }
  }
  // Offsets in the header count from its own end, so its size is known before it is.
  const uint64_t header_bytes = RoundUpToPage(sizeof(uint64_t) + HeaderJson(model, 0, end).size());
  for (StoredTensor& tensor : model.tensors) {
    for (Block& block : tensor.blocks) block.offset += header_bytes;
  }
  model.file_bytes = {header_bytes + end};
  return model;
}

std::string HeaderText(const ModelFile& model) {
  uint64_t data_begin = model.file_bytes[0];
  for (const StoredTensor& tensor : model.tensors) {
    for (const Block& block : tensor.blocks) data_begin = std::min(data_begin, block.offset);
  }
  std::string json = HeaderJson(model, data_begin, model.file_bytes[0]);
  const uint64_t json_bytes = data_begin - sizeof(uint64_t);
  json.resize(json_bytes, ' ');
  std::string text(sizeof(uint64_t), '\0');
  std::memcpy(text.data(), &json_bytes, sizeof(json_bytes));
  return text + json;
}

}  // namespace qianyi
