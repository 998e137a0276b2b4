// The streaming layout: a model as Qianyi keeps it on disk. docs/model-format.md.
//
// A folder holds config.json, tokenizer files and safetensors files whose tensors
// stand in execution order. A matrix is stored as row blocks of whole panels
// (kernels/packed.h); a block is the one grain of reading, checksum and residency. Blocks start
// at multiples of kPageBytes, padding between them is declared as `__pad.N`. Norms,
// biases and position tables are plain tensors ("constants") kept in memory always.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/packed.h"
#include "runtime/model_spec.h"

namespace qianyi {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kMaxBlockBytes = 32ull << 20;
inline constexpr uint64_t kStreamBlockBytes = 1ull << 20;  // what we write for streamed matrices
inline constexpr uint64_t kGatherBlockBytes = 1ull << 20;  // and for embeddings

struct Block {
  int file = 0;           // index into ModelFile::files
  uint64_t offset = 0;    // multiple of kPageBytes
  uint64_t bytes = 0;     // exact; reads are rounded up to kPageBytes, which the file covers
  uint64_t checksum = 0;  // XXH3-64 of `bytes` bytes; 0 = unknown, not to be checked
  int64_t row_begin = 0;  // multiple of kPanelRows
  int64_t rows = 0;
};

struct StoredTensor {
  TensorSpec spec;             // name, shape, use and unit
  PackedFormat format;         // of a matrix; constants are plain f32
  std::string original_dtype;  // what the checkpoint had
  std::vector<Block> blocks;   // in row order; one for a constant

  uint64_t bytes() const;  // sum over blocks
};

// A folder's table of contents: `tensors` are in execution order and match, one to
// one, what the model's family asks for. Immutable, copyable.
struct ModelFile {
  std::string folder;
  ModelSpec spec;
  std::vector<std::string> files;  // absolute paths
  std::vector<uint64_t> file_bytes;
  std::vector<StoredTensor> tensors;

  // Index of a tensor, or -1.
  int Find(std::string_view name) const;

  // Reads config.json and every header, checks them against each other and against the
  // sizes of the files. Reads no weights.
  static absl::StatusOr<ModelFile> Open(const std::string& folder);

  // The same table for a model that exists nowhere: blocks are laid out as `convert`
  // would, in one virtual file (files[0] == "synth:SEED", which runtime/storage/synth.h
  // reads) and without checksums.
  static absl::StatusOr<ModelFile> Lay(const ModelSpec& spec, PackedFormat format,
                                       uint64_t seed = 0);
};

// The format of integers that a checkpoint had already, 4 or 8 bits with one scale per row.
PackedFormat KeptFormat(int integer_bits);

// The format a tensor is stored in when the user asked for `requested`: group sizes
// that do not divide the columns fall back to per row, constants stay f32. Integers of a checkpoint
// stay as they are where integers as wide, or wider, were asked for.
PackedFormat FormatFor(const TensorSpec& tensor, PackedFormat requested);

}  // namespace qianyi
