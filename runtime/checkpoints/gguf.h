// The table of contents of a GGUF file, version 2 or 3: metadata and where tensors lie. Trusts
// nothing: every size is checked before it is used.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/byte_source.h"
#include "runtime/checkpoints/source_tensor.h"

namespace qianyi {

// Whole numbers and booleans; fractions; texts; and lists of each.
using GgufValue = std::variant<int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

struct Gguf {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<SourceTensor> tensors;  // shapes outermost first, as everywhere here

  // Of the metadata; nothing when it is absent or of another kind.
  std::optional<int64_t> Int(std::string_view key) const;
  std::optional<double> Number(std::string_view key) const;  // whole ones too
  std::string Text(std::string_view key) const;              // "" when absent
  const std::vector<std::string>* Texts(std::string_view key) const;
  const std::vector<int64_t>* Ints(std::string_view key) const;
  const std::vector<double>* Numbers(std::string_view key) const;
  const SourceTensor* Find(std::string_view tensor) const;

  // Errors say what is wrong, not in which file: InvalidArgument, or OutOfRange when it ends early.
  static absl::StatusOr<Gguf> Read(const ByteSource& file);
  // The same of a file's first bytes; OutOfRange when these do not suffice.
  static absl::StatusOr<Gguf> Parse(std::string_view head, uint64_t file_bytes);
};

inline constexpr std::string_view kGgufMagic = "GGUF";

}  // namespace qianyi
