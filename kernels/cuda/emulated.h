// The CUDA kernels on the emulated device, for tests: a backend with memory of its own.
#pragma once

#include "kernels/backend.h"

namespace qianyi::cuda {

const Backend& EmulatedCuda();

// The table of --numerics fast, with a library in cuBLASLt's place: of the last call, for streams
// that are created after it. Room for few rows, so that products are made in parts.
const Backend& EmulatedFastCuda(const char* library_path);

}  // namespace qianyi::cuda
