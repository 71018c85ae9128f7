// SPDX-License-Identifier: Apache-2.0
// The choice of an instruction set.
#include "native/cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace jp::cpu {
namespace {

struct Candidate {
  const Isa* isa;
  bool runs_here;
};

const Isa& Choose() {
  const Candidate candidates[] = {
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
      {&kAvx512Isa, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
      {&kAvx2Isa, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#elif defined(__aarch64__) && !defined(JP_BASELINE_ONLY)
      {&kNeonIsa, true},
#endif
      {&kBaselineIsa, true},
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
