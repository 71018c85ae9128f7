#define JP_ISA neon
#define JP_VECTOR_BYTES 16
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/instantiate.h"

namespace jp::cpu {

const Isa kNeonIsa = neon::kIsa("neon");

}  // namespace jp::cpu
