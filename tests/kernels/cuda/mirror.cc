#include "tests/kernels/cuda/mirror.h"

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/emulated.h"
#include "kernels/cuda/emulation.h"

namespace qianyi::testing {

std::vector<const Backend*> Devices() {
  cuda::emulation::SetStrictMemory(true);
  std::vector<const Backend*> devices = {&cuda::EmulatedCuda()};
  if (Cuda() != nullptr) devices.push_back(Cuda());
  if (Cuda() == nullptr && std::getenv("QIANYI_NEEDS_CUDA") != nullptr) {
    std::fputs("there is no CUDA device, and QIANYI_NEEDS_CUDA asks for one\n", stderr);
    std::exit(1);
  }
  return devices;
}

}  // namespace qianyi::testing
