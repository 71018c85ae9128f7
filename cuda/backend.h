// The XLA FFI handlers of the GPU kernels.
#pragma once

#include "xla/ffi/api/ffi.h"

#include "cuda/plan.h"

namespace jp::ffi {

// The facts of one of CUDA's devices here. Throws std::runtime_error with CUDA's own words.
DeviceFacts FactsOfGpu(int ordinal);

XLA_FFI_DECLARE_HANDLER_SYMBOL(GpuForward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(GpuBackward);

}  // namespace jp::ffi
