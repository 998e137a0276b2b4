// Weights invented from a counter, for timing models that nobody has at hand. Every byte is
// a pure function of seed, tensor name and position, so any part can be made on its own,
// and a file written from them equals what the reader below serves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/progress.h"
#include "runtime/storage/reader.h"

namespace qianyi {

// Fills `out` with bytes [begin, begin + bytes) of a block as it is stored; `begin` must be a
// multiple of 64, and the last byte inside the block. Values have mean zero and a deviation
// of 1/sqrt(cols) in matrices, routers and tied embeddings, 1 in other embeddings, 0.02 in biases
// and tables; norm weights are 1. What corrects a router's scores obeys TensorSpec::router_skew.
// Rows and columns of padding are zero weights.
void SynthBytes(const TensorSpec& tensor, PackedFormat format, uint64_t seed, const Block& block,
                uint64_t begin, uint64_t bytes, std::byte* out);
// The whole block: block.bytes bytes.
void SynthBlock(const TensorSpec& tensor, PackedFormat format, uint64_t seed, const Block& block,
                std::byte* out);

// Sets the skew of the invented routers of a model (0 = none). InvalidArgument when it has none.
absl::Status SetRouterSkew(double skew, ModelSpec* spec);

// Serves the one virtual file of ModelFile::Lay: blocks as above, zeros elsewhere (there is no
// header to read). Makes the bytes in Wait.
absl::StatusOr<std::unique_ptr<Reader>> OpenSynthReader(const ModelFile& model,
                                                        ReaderOptions options);

// The reader of file `index` of a model, be it on disk or invented.
absl::StatusOr<std::unique_ptr<Reader>> OpenModelReader(const ModelFile& model, int index,
                                                        ReaderOptions options);

// Writes the same model as a folder that ModelFile::Open takes.
absl::Status WriteSynth(const ModelSpec& spec, PackedFormat format, uint64_t seed,
                        const std::string& destination, const ProgressFn& progress);

}  // namespace qianyi
