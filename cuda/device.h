// SPDX-License-Identifier: Apache-2.0
// The kernels on the GPUs of this machine. No CUDA header: callers know a stream as a pointer.
#pragma once

#include <functional>
#include <string>

#include "cuda/launches.h"

namespace jp::cuda {

// The facts of the current device, or of one by its ordinal. Both throw std::runtime_error with
// CUDA's own words.
DeviceFacts ThisGpu();
DeviceFacts GpuOfOrdinal(int device);

// Bytes of scratch memory, or null.
using Allocate = std::function<void*(int64_t bytes)>;

// Enqueues a call on a CUDA stream of the current device and returns at once. Empty, or what went
// wrong; a launch before it that failed on the device is reported here too.
std::string Enqueue(const Call<cpu::Forward>& call, void* stream, const Allocate& allocate);
std::string Enqueue(const Call<cpu::Backward>& call, void* stream, const Allocate& allocate);

}  // namespace jp::cuda
