// The XLA FFI handlers of the GPU kernels.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

XLA_FFI_DECLARE_HANDLER_SYMBOL(GpuForward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(GpuBackward);

}  // namespace jp::ffi
