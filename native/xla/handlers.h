// SPDX-License-Identifier: Apache-2.0
// XLA's FFI handlers of the two targets, for each backend of this build.
#pragma once

#include <cstddef>

#include "native/problem/problem.h"
#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

constexpr const char* TargetOf(Pass pass) {
  return pass == Pass::kForward ? "jax_persistent.forward" : "jax_persistent.backward";
}

// The handlers of a target on one platform.
struct Stages {
  XLA_FFI_Handler* instantiate;
  XLA_FFI_Handler* initialize;  // null: the backend has nothing to load
  XLA_FFI_Handler* execute;
};
// `backend` counts in Backends().
Stages StagesOf(size_t backend, Pass pass);

}  // namespace jp::ffi
