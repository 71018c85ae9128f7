// SPDX-License-Identifier: Apache-2.0
// XLA's FFI handlers of step functions' programs, on the CPU.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

inline constexpr const char* kProgramTarget = "jax_persistent.program";

XLA_FFI_Error* InstantiateProgram(XLA_FFI_CallFrame* frame);
XLA_FFI_Error* ExecuteProgram(XLA_FFI_CallFrame* frame);

}  // namespace jp::ffi
