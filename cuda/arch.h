// The one door between the kernels and the machine: every CUDA intrinsic they use is declared by
// one of the two headers below, under the same name and with the same meaning.
//
// arch_device.cuh is the GPU. arch_host.h is its twin, which runs the same kernel sources on a CPU,
// each warp on an operating system's thread, so that they can be tested without a GPU.
#pragma once

#include <cstdint>

namespace jp::cuda {

// Sixteen bytes, as one thread loads and stores them.
struct alignas(16) Quad {
  uint32_t word[4];
};

constexpr int kLanes = 32;  // threads of a warp

// Element types of the matrix unit's operands; sums are float.
enum class Operand { kBfloat16, kFloat16, kTf32 };

}  // namespace jp::cuda

#if defined(__CUDACC__)
#include "cuda/arch_device.cuh"
#else
#include "cuda/arch_host.h"
#endif
