// For builds without a CUDA toolkit.
#include "kernels/backend.h"

namespace qianyi {

const Backend* Cuda() { return nullptr; }

}  // namespace qianyi
