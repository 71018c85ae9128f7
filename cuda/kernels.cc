#include "cuda/kernels.h"

namespace jp::cuda {

#define JP_CELL(Cell)                                                             \
  KernelSet Cell##Bfloat16Kernels(), Cell##Float16Kernels(), Cell##Tf32Kernels(), \
      Cell##Float32Kernels();                                                     \
  static KernelSet Cell##Kernels(Precision number) {                              \
    switch (number) {                                                             \
      case Precision::kBfloat16: return Cell##Bfloat16Kernels();                  \
      case Precision::kFloat16: return Cell##Float16Kernels();                    \
      case Precision::kTf32: return Cell##Tf32Kernels();                          \
      case Precision::kFloat32: return Cell##Float32Kernels();                    \
    }                                                                             \
    return {};                                                                    \
  }
JP_CELL(Lstm)
JP_CELL(Gru)
JP_CELL(ElmanTanh)
JP_CELL(ElmanRelu)
#undef JP_CELL

KernelSet KernelsOf(CellKind cell, Precision number) {
  switch (cell) {
    case CellKind::kLstm: return LstmKernels(number);
    case CellKind::kGru: return GruKernels(number);
    case CellKind::kElmanTanh: return ElmanTanhKernels(number);
    case CellKind::kElmanRelu: return ElmanReluKernels(number);
  }
  return {};
}

}  // namespace jp::cuda
