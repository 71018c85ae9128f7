// SPDX-License-Identifier: Apache-2.0
// The one door between the kernels and the machine: every CUDA intrinsic they use is declared by
// one of the two headers below, under the same name and with the same meaning.
//
// arch_device.cuh is the GPU. emulator/arch_emulator.h runs the same kernel sources on a CPU, each
// warp on an operating system's thread, so that they are tested without a GPU.
#pragma once

#include "cuda/arch_types.h"

#if defined(__CUDACC__)
#define JP_UNROLL _Pragma("unroll")
#define JP_UNROLL_4 _Pragma("unroll 4")
#include "cuda/arch_device.cuh"
#else
#define JP_UNROLL
#define JP_UNROLL_4
#include "cuda/emulator/arch_emulator.h"
#endif
