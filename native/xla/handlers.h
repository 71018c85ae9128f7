// SPDX-License-Identifier: Apache-2.0
// XLA's FFI handlers of the targets, for each backend of this build.
#pragma once

#include <cstddef>

#include "native/problem/problem.h"
#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

constexpr const char* TargetOf(Pass pass) {
  return pass == Pass::kForward ? "jax_persistent.forward" : "jax_persistent.backward";
}

inline constexpr const char* kProgramTarget = "jax_persistent.program";

// The handlers of a target on one platform.
struct Stages {
  XLA_FFI_Handler* instantiate;
  XLA_FFI_Handler* initialize;  // null: the backend has nothing to load
  XLA_FFI_Handler* execute;
};
// `backend` counts in Backends().
Stages StagesOf(size_t backend, Pass pass);
Stages StagesOfProgram(size_t backend);  // of kProgramTarget

}  // namespace jp::ffi
