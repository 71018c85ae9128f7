// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512.
#define JP_ISA avx512
#define JP_VECTOR_BYTES 64
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/dispatch.h"

namespace jp::cpu {

const Isa kAvx512Isa = avx512::MakeIsa("avx512");

}  // namespace jp::cpu
