// Reading side of the layout: headers and config against each other. Trusts neither.
#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"
#include "runtime/parse_json.h"
#include "runtime/storage/format.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/shape_text.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr int64_t kMaxRows = int64_t{1} << 31;

absl::Status Bad(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, what));
}

std::optional<int64_t> IntegerOf(const json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX) {
    return static_cast<int64_t>(value.get<uint64_t>());
  }
  if (value.is_number_integer() && !value.is_number_unsigned()) return value.get<int64_t>();
  return std::nullopt;
}

std::optional<uint64_t> ChecksumOf(const json& value) {
  if (!value.is_string()) return std::nullopt;
  const std::string& text = value.get_ref<const std::string&>();
  uint64_t checksum = 0;
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != text.npos ||
      !absl::SimpleHexAtoi(text, &checksum)) {
    return std::nullopt;
  }
  return checksum;
}

// What `__metadata__` says about one tensor.
struct Description {
  std::string layout;
  PackedFormat format;
  std::vector<int64_t> shape;
  std::string original_dtype;
  std::vector<Block> blocks;  // row_begin, rows and checksum
};

// A short text of what is wrong, or nothing.
std::optional<std::string> ParseBlocks(const json& list, std::vector<Block>* blocks) {
  if (!list.is_array() || list.empty()) return "has no list of blocks";
  for (const json& item : list) {
    const bool shaped = item.is_array() && item.size() == 3;
    const std::optional<int64_t> begin = shaped ? IntegerOf(item[0]) : std::nullopt;
    const std::optional<int64_t> rows = shaped ? IntegerOf(item[1]) : std::nullopt;
    const std::optional<uint64_t> checksum = shaped ? ChecksumOf(item[2]) : std::nullopt;
    if (!begin || !rows || !checksum || *begin < 0 || *begin > kMaxRows || *rows < 1 ||
        *rows > kMaxRows) {
      return absl::StrFormat("has a block that is not [row_begin, rows, checksum]: number %d",
                             blocks->size());
    }
    blocks->push_back({.checksum = *checksum, .row_begin = *begin, .rows = *rows});
  }
  return std::nullopt;
}

std::optional<std::string> ParseDescription(const std::string& text, Description* out) {
  const json root = ParseJson(text);
  if (!root.is_object()) return "has a description that is not a JSON object";
  for (const char* field : {"layout", "dtype", "original_dtype"}) {
    if (!root.contains(field) || !root[field].is_string()) {
      return absl::StrFormat("has no text '%s' in its description", field);
    }
  }
  out->layout = root["layout"].get<std::string>();
  out->original_dtype = root["original_dtype"].get<std::string>();
  const std::string& dtype = root["dtype"].get_ref<const std::string&>();
  const std::optional<DType> known = DTypeFromName(dtype);
  if (!known) return absl::StrFormat("has the dtype '%s', unknown to this version", dtype);
  const std::optional<int64_t> group =
      root.contains("group") ? IntegerOf(root["group"]) : std::nullopt;
  if (!group || *group < 0 || *group > 1024) return "has no sensible 'group' in its description";
  out->format = {*known, static_cast<int>(*group)};
  if (!IsValid(out->format)) {
    return absl::StrFormat("has the format %s with groups of %d, which does not exist", dtype,
                           *group);
  }
  if (!root.contains("shape") || !root["shape"].is_array()) return "has no 'shape'";
  for (const json& size : root["shape"]) {
    const std::optional<int64_t> value = IntegerOf(size);
    if (!value) return "has a 'shape' that is not a list of numbers";
    out->shape.push_back(*value);
  }
  if (!root.contains("blocks")) return "has no list of blocks";
  return ParseBlocks(root["blocks"], &out->blocks);
}

std::optional<std::string> CheckDescription(const Description& description,
                                            const TensorSpec& spec) {
  const bool constant = spec.use == TensorUse::kConstant;
  if (description.shape != spec.shape) {
    return absl::StrFormat("has the shape %s, but config.json asks for %s",
                           ShapeText(description.shape), ShapeText(spec.shape));
  }
  const char* layout = constant ? "plain" : "panels16";
  if (description.layout != layout) {
    return absl::StrFormat("has the layout '%s' where this version knows only '%s'",
                           description.layout, layout);
  }
  if (description.format != FormatFor(spec, description.format)) {
    return absl::StrFormat(
        "has the format %s with groups of %d, which its use or its %d columns "
        "do not allow",
        DTypeName(description.format.dtype), description.format.group, spec.cols());
  }
  if (constant && description.blocks.size() != 1) return "is a constant of several blocks";
  int64_t covered = 0;
  for (const Block& block : description.blocks) {
    if (block.row_begin != covered || (!constant && covered % kPanelRows != 0)) {
      return absl::StrFormat("has a block from row %d where one from row %d should follow",
                             block.row_begin, covered);
    }
    covered += block.rows;
  }
  if (covered != spec.rows()) {
    return absl::StrFormat("has blocks for %d rows, but %d rows", covered, spec.rows());
  }
  return std::nullopt;
}

// All tensors and descriptions of all files by name.
class Contents {
 public:
  absl::Status Add(const Safetensors& file, int index) {
    const auto version = file.metadata().find(std::string(kFormatKey));
    if (version == file.metadata().end()) {
      return Bad(file.path(),
                 absl::StrFormat("has no '%s' in its metadata; run `qianyi convert`", kFormatKey));
    }
    if (version->second != kFormatVersion) {
      return Bad(file.path(),
                 absl::StrFormat("has %s %s, but this version reads %s; convert the model again",
                                 kFormatKey, version->second, kFormatVersion));
    }
    if (file.file_bytes() % kPageBytes != 0) {
      return Bad(file.path(),
                 absl::StrFormat("has %d bytes, no multiple of %d", file.file_bytes(), kPageBytes));
    }
    for (const SafetensorsEntry& entry : file.entries()) {
      if (entry.name.starts_with(kPaddingPrefix)) continue;
      if (!entries_.emplace(entry.name, Located{&file, &entry, index}).second) {
        return Bad(file.path(), absl::StrFormat("has tensor '%s', which another file of the "
                                                "folder has too",
                                                entry.name));
      }
    }
    for (const auto& [key, text] : file.metadata()) {
      if (!key.starts_with(kTensorKeyPrefix)) continue;
      const std::string name = key.substr(kTensorKeyPrefix.size());
      if (!descriptions_.emplace(name, std::pair(&file, &text)).second) {
        return Bad(file.path(),
                   absl::StrFormat("describes tensor '%s', as does another file", name));
      }
    }
    return absl::OkStatus();
  }

  bool Describes(const std::string& name) const { return descriptions_.contains(name); }

  absl::StatusOr<StoredTensor> Take(const TensorSpec& spec, const std::string& folder) {
    const auto found = descriptions_.find(spec.name);
    if (found == descriptions_.end()) {
      return Bad(folder, absl::StrFormat("lacks tensor '%s' %s, which config.json asks for",
                                         spec.name, ShapeText(spec.shape)));
    }
    const auto [file, text] = found->second;
    descriptions_.erase(found);
    Description description;
    std::optional<std::string> problem = ParseDescription(*text, &description);
    if (!problem) problem = CheckDescription(description, spec);
    if (problem) {
      return Bad(file->path(), absl::StrFormat("tensor '%s' %s", spec.name, *problem));
    }
    StoredTensor tensor{spec, description.format, description.original_dtype,
                        std::move(description.blocks)};
    for (Block& block : tensor.blocks) {
      const absl::Status placed = Place(tensor, &block, file->path());
      if (!placed.ok()) return placed;
    }
    return tensor;
  }

  // What no tensor of the model took.
  absl::Status CheckNothingLeft(const std::string& folder) const {
    if (descriptions_.empty() && entries_.empty()) return absl::OkStatus();
    const std::string& name =
        descriptions_.empty() ? entries_.begin()->first : descriptions_.begin()->first;
    return Bad(folder, absl::StrFormat("has tensor '%s', for which config.json has no use", name));
  }

 private:
  struct Located {
    const Safetensors* file;
    const SafetensorsEntry* entry;
    int index;
  };

  absl::Status Place(const StoredTensor& tensor, Block* block, const std::string& path) {
    const std::string name = BlockName(tensor, *block);
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
      return Bad(path, absl::StrFormat("describes block '%s', which is not there", name));
    }
    const Located located = found->second;
    entries_.erase(found);
    const SafetensorsEntry& entry = *located.entry;
    const std::string& file = located.file->path();
    const bool constant = tensor.spec.use == TensorUse::kConstant;
    const std::vector<int64_t> shape =
        constant ? tensor.spec.shape
                 : std::vector<int64_t>{static_cast<int64_t>(entry.end - entry.begin)};
    if (entry.dtype != (constant ? "F32" : "U8") || entry.shape != shape) {
      return Bad(
          file, absl::StrFormat("block '%s' is %s %s, not %s %s", name, entry.dtype,
                                ShapeText(entry.shape), constant ? "F32" : "U8", ShapeText(shape)));
    }
    block->file = located.index;
    block->offset = entry.begin;
    block->bytes = entry.end - entry.begin;
    const uint64_t expected = BlockBytes(tensor.spec, tensor.format, block->rows);
    if (block->bytes != expected || (!constant && expected > kMaxBlockBytes)) {
      return Bad(file, absl::StrFormat("block '%s' has %d bytes; %d rows of this tensor take %d, "
                                       "and at most %d are allowed",
                                       name, block->bytes, block->rows, expected, kMaxBlockBytes));
    }
    if (block->offset % kPageBytes != 0) {
      return Bad(file, absl::StrFormat("block '%s' begins at byte %d, no multiple of %d", name,
                                       block->offset, kPageBytes));
    }
    return absl::OkStatus();
  }

  std::map<std::string, Located> entries_;
  std::map<std::string, std::pair<const Safetensors*, const std::string*>> descriptions_;
};

}  // namespace

absl::StatusOr<ModelFile> ReadContents(const std::string& folder, std::string_view config_json,
                                       const std::vector<Safetensors>& files) {
  absl::StatusOr<ModelSpec> spec = DescribeModel(config_json);
  if (!spec.ok()) {
    return absl::Status(spec.status().code(),
                        absl::StrFormat("%s: %s", folder, spec.status().message()));
  }
  ModelFile model;
  model.folder = folder;
  model.spec = *std::move(spec);
  Contents contents;
  for (size_t i = 0; i < files.size(); ++i) {
    const absl::Status added = contents.Add(files[i], static_cast<int>(i));
    if (!added.ok()) return added;
    model.files.push_back(files[i].path());
    model.file_bytes.push_back(files[i].file_bytes());
  }
  std::erase_if(model.spec.tensors, [&](const TensorSpec& tensor) {
    return tensor.kept && !contents.Describes(tensor.name);
  });
  for (const TensorSpec& tensor_spec : model.spec.tensors) {
    // The layout's own limits first, so that no later product can overflow.
    const absl::Status shape = CheckShape(tensor_spec);
    if (!shape.ok()) return shape;
    absl::StatusOr<StoredTensor> tensor = contents.Take(tensor_spec, folder);
    if (!tensor.ok()) return tensor.status();
    model.tensors.push_back(*std::move(tensor));
  }
  const absl::Status left = contents.CheckNothingLeft(folder);
  if (!left.ok()) return left;
  return model;
}

}  // namespace qianyi
