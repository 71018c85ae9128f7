// SPDX-License-Identifier: Apache-2.0
// What multiplies bfloat16 on this machine.
#pragma once

#include <string>

#include "native/cpu/cpu_plan.h"

namespace jp::cpu {

struct ChosenUnits {
  Units units;
  std::string why;  // in words, with what stands against more
};

// The most that the processor, the system and JAX_PERSISTENT_BFLOAT16 allow: "widened",
// "avx512_bf16", which it is unless that is set, or "amx". Throws std::runtime_error if that is
// another word. Asks the system for AMX's registers, once, for all threads of the process.
const ChosenUnits& UnitsHere();

}  // namespace jp::cpu
