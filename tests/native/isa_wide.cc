// SPDX-License-Identifier: Apache-2.0
// The kernels of the widest sizes in the baseline's instructions.
#define JP_ISA wide
#define JP_VECTOR_BYTES 64
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/dispatch.h"
#include "tests/native/isas.h"

namespace jp::test {

const cpu::Isa kWideIsa = cpu::wide::MakeIsa("wide");

}  // namespace jp::test
