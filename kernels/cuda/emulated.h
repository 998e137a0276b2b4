// The CUDA kernels on the emulated device, for tests: a backend with memory of its own.
#pragma once

#include "kernels/backend.h"

namespace qianyi::cuda {

const Backend& EmulatedCuda();

}  // namespace qianyi::cuda
