#include "kernels/cpu/vec_avx2.h"
// After the vector type, which the templates are instantiated for.
#include "kernels/cpu/row_table.h"

namespace qianyi::cpu {

constinit const RowKernels kAvx2Kernels = RowTable<Vec>();

}  // namespace qianyi::cpu
