#define JP_ISA baseline
#define JP_VECTOR_BYTES 16
#define JP_VECTOR_REGISTERS 16
#include "native/cpu/instantiate.h"

namespace jp::cpu {

const Isa kBaselineIsa = baseline::kIsa("baseline");

}  // namespace jp::cpu
