#define JP_ISA avx512
#define JP_VECTOR_BYTES 64
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/instantiate.h"

namespace jp::cpu {

const Isa kAvx512Isa = avx512::kIsa("avx512");

}  // namespace jp::cpu
