#include "tests/kernels/cuda/mirror.h"

#include "kernels/cuda/emulated.h"
#include "kernels/cuda/emulation.h"

namespace qianyi::testing {

std::vector<const Backend*> Devices() {
  cuda::emulation::SetStrictMemory(true);
  std::vector<const Backend*> devices = {&cuda::EmulatedCuda()};
  if (Cuda() != nullptr) devices.push_back(Cuda());
  return devices;
}

}  // namespace qianyi::testing
