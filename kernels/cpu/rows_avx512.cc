#include "kernels/cpu/row_table.h"
#include "kernels/cpu/vec_avx512.h"

namespace qianyi::cpu {

constinit const RowKernels kAvx512Kernels = RowTable<Vec>();

}  // namespace qianyi::cpu
