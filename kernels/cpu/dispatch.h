// Which instruction set runs.
#pragma once

#include <string_view>

#include "kernels/backend.h"
#include "kernels/cpu/row_kernels.h"

namespace qianyi::cpu {

// What the processor has and the operating system saves on a context switch. For AMX
// this also asks the system's leave to use the tiles, once for the process.
struct Features {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL and VNNI
  bool amx = false;     // int8 tiles, and avx512
  // Reading memory is faster when code asks ahead: by a quarter on Intel's, while AMD's
  // guess a straight run themselves and lose up to a fifth (docs/kernels.md).
  bool prefetch = false;
};
const Features& DetectFeatures();

// The best variant not above the one named; the best of all when the name is empty or
// is none of reference, avx2, avx512 and amx.
const Backend& ChooseVariant(std::string_view name);

// The row kernels of the best instruction set, whatever the environment asks for: all
// give the same bits.
const RowKernels& BestRowKernels();

}  // namespace qianyi::cpu
