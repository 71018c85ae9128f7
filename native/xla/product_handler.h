// SPDX-License-Identifier: Apache-2.0
// XLA's FFI handler of a product of two matrices, on the CPU.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

inline constexpr const char* kProductTarget = "jax_persistent.product";

XLA_FFI_Error* ExecuteProduct(XLA_FFI_CallFrame* frame);

}  // namespace jp::ffi
