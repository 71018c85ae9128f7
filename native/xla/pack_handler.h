// SPDX-License-Identifier: Apache-2.0
// XLA's FFI handler that packs kernels, on the CPU.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

inline constexpr const char* kPackTarget = "jax_persistent.pack";

XLA_FFI_Error* ExecutePack(XLA_FFI_CallFrame* frame);

}  // namespace jp::ffi
