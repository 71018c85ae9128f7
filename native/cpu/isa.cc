// SPDX-License-Identifier: Apache-2.0
// The choice of an instruction set.
#include "native/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace jp::cpu {
namespace {

struct Candidate {
  const Isa* isa;
  bool runs_here;
};

#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
// Asked of the processor itself: __builtin_cpu_supports needs a part of the compiler's runtime that
// says no to everything in Zig's, which wheels are built with.
struct Processor {
  bool avx2 = false, avx512 = false;

  Processor() {
    uint32_t eax, ebx, ecx, edx;
    constexpr uint32_t kSavedState = 1u << 27, kFma = 1u << 12;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kSavedState) || !(ecx & kFma)) return;
    uint32_t saved, high;  // the registers that the system saves between threads
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    constexpr uint32_t kYmm = 0x06, kZmm = 0xe6, kAvx2 = 1u << 5;
    constexpr uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    avx2 = (saved & kYmm) == kYmm && (ebx & kAvx2);
    avx512 = avx2 && (saved & kZmm) == kZmm && (ebx & kAvx512) == kAvx512;
  }
};
#endif

const Isa& Choose() {
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
  const Processor processor;
#endif
  const Candidate candidates[] = {
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
      {&kAvx512Isa, processor.avx512},
      {&kAvx2Isa, processor.avx2},
#endif
#if defined(__aarch64__) && !defined(JP_BASELINE_ONLY)
      {&kNeonIsa, true},
#else
      {&kBaselineIsa, true},
#endif
  };
  const char* asked = std::getenv("JAX_PERSISTENT_ISA");
  std::string known;
  for (const Candidate& candidate : candidates) {
    if (asked == nullptr || *asked == '\0') {
      if (candidate.runs_here) return *candidate.isa;
    } else if (std::string_view(asked) == candidate.isa->name) {
      if (candidate.runs_here) return *candidate.isa;
      throw std::runtime_error("JAX_PERSISTENT_ISA=" + std::string(asked) +
                               ": this machine can't run it; unset it to choose one that can");
    }
    known += std::string(known.empty() ? "" : ", ") + candidate.isa->name;
  }
  throw std::runtime_error("JAX_PERSISTENT_ISA: expected one of " + known + "; got '" + asked +
                           "'");
}

}  // namespace

const Isa& ChosenIsa() {
  static const Isa& chosen = Choose();
  return chosen;
}

}  // namespace jp::cpu
