// The instruction sets that the kernels are built for, and the choice among them at run time.
#pragma once

#include <cstdint>
#include <string_view>

#include "native/cells/cell.h"
#include "native/cpu/job.h"

namespace jp::cpu {

struct Isa {
  const char* name;
  int lanes;      // float32 values in a vector
  int registers;  // vectors
  // Runs one step of one slice; see Team.
  void (*forward)(const Job<Forward>& job, int slice, int64_t step);
  void (*backward)(const Job<Backward>& job, int slice, int64_t step);
};

// The best instruction set of this machine, or what JAX_PERSISTENT_ISA names. Throws
// std::runtime_error if that is unknown or can't run here.
const Isa& ChosenIsa();

#if defined(__x86_64__)
extern const Isa kAvx512Isa;
extern const Isa kAvx2Isa;
#elif defined(__aarch64__)
extern const Isa kNeonIsa;
#endif
extern const Isa kBaselineIsa;

}  // namespace jp::cpu
