// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX2.
#define JP_ISA avx2
#define JP_VECTOR_BYTES 32
#define JP_VECTOR_REGISTERS 16
#include "native/cpu/dispatch.h"

namespace jp::cpu {

const Isa kAvx2Isa = avx2::MakeIsa("avx2");

}  // namespace jp::cpu
