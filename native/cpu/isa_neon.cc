// SPDX-License-Identifier: Apache-2.0
// The kernels for NEON.
#define JP_ISA neon
#define JP_VECTOR_BYTES 16
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/dispatch.h"

namespace jp::cpu {

const Isa kNeonIsa = neon::MakeIsa("neon");

}  // namespace jp::cpu
