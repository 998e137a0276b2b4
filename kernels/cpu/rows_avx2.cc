#include "kernels/cpu/row_table.h"
#include "kernels/cpu/vec_avx2.h"

namespace qianyi::cpu {

constinit const RowKernels kAvx2Kernels = RowTable<Vec>();

}  // namespace qianyi::cpu
