// What torch.save wrote: a pickle of names, shapes and strides, and the tensors' elements as they
// are. Two containers: the zip archive of PyTorch 1.6 and later, and the stream of pickles that
// older versions wrote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/byte_source.h"
#include "runtime/checkpoints/source_tensor.h"

namespace qianyi {

// True for the first bytes of either container.
bool LooksLikeTorch(std::string_view head);

// The tensors of a file: of its dictionary "module", "state_dict" or "model" when there is one,
// else of all of it; names of nested dictionaries are joined by dots. Tensors may share a storage.
// Reads no weights. Errors say what is wrong, not in which file.
absl::StatusOr<std::vector<SourceTensor>> ReadTorchContents(const ByteSource& file);

}  // namespace qianyi
