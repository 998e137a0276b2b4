#include "kernels/cpu/row_table.h"
#include "kernels/cpu/vec_scalar.h"

namespace qianyi::cpu {

constinit const RowKernels kReferenceKernels = RowTable<Vec>();

}  // namespace qianyi::cpu
