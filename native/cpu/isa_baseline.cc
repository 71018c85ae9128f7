// SPDX-License-Identifier: Apache-2.0
// The kernels in the instructions that all processors of the target have.
#define JP_ISA baseline
#define JP_VECTOR_BYTES 16
#define JP_VECTOR_REGISTERS 16
#include "native/cpu/dispatch.h"

namespace jp::cpu {

const Isa kBaselineIsa = baseline::MakeIsa("baseline");

}  // namespace jp::cpu
