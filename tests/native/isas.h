// SPDX-License-Identifier: Apache-2.0
// The instruction sets whose kernels can be run on this machine.
#pragma once

#include <vector>

#include "native/cpu/isa.h"

namespace jp::test {

#if defined(JP_HAS_WIDE)
// The widest kernels' sizes (16 lanes, 32 registers) in the baseline's instructions, so that their
// logic runs on every machine, and not only where there is AVX-512.
extern const cpu::Isa kWideIsa;
#endif

// The lowest first.
inline std::vector<const cpu::Isa*> IsasHere() {
#if defined(__aarch64__) && !defined(JP_BASELINE_ONLY)
  std::vector<const cpu::Isa*> here = {&cpu::kNeonIsa};
#else
  std::vector<const cpu::Isa*> here = {&cpu::kBaselineIsa};
#endif
#if defined(JP_HAS_WIDE)
  here.push_back(&kWideIsa);
#endif
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    here.push_back(&cpu::kAvx2Isa);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    here.push_back(&cpu::kAvx512Isa);
  }
#endif
  return here;
}

// What can multiply bfloat16 there.
inline std::vector<cpu::Units> UnitsOf([[maybe_unused]] const cpu::Isa& isa) {
  std::vector<cpu::Units> units = {cpu::Units::kWidened};
#if defined(JP_HAS_WIDE)
  if (&isa == &kWideIsa) units = {cpu::Units::kTiles, cpu::Units::kPairs, cpu::Units::kWidened};
#endif
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
  if (&isa == &cpu::kAvx512Isa && __builtin_cpu_supports("avx512bf16")) {
    units.push_back(cpu::Units::kPairs);
  }
#endif
  return units;
}

// Kernels that all fuse a multiplication with an addition, or all don't, give the same bits.
inline bool Fuses([[maybe_unused]] const cpu::Isa& isa) {
#if defined(__x86_64__) && defined(JP_BASELINE_ONLY)
  return false;
#elif defined(__x86_64__)
  return &isa == &cpu::kAvx2Isa || &isa == &cpu::kAvx512Isa;
#else
  return true;
#endif
}

}  // namespace jp::test
