#define JP_ISA avx2
#define JP_VECTOR_BYTES 32
#define JP_VECTOR_REGISTERS 16
#include "native/cpu/instantiate.h"

namespace jp::cpu {

const Isa kAvx2Isa = avx2::kIsa("avx2");

}  // namespace jp::cpu
