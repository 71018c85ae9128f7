// SPDX-License-Identifier: Apache-2.0
// What headers need that NVRTC compiles as well, which has no standard library: integers of a known
// width, and the marks of functions that kernels call.
#pragma once

#if defined(__CUDACC_RTC__)
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
using uintptr_t = unsigned long;
#define JP_HOST_DEVICE __host__ __device__
#else
#include <cstddef>
#include <cstdint>
// Inlined by force on a CPU: units built for different instruction sets must not share a copy.
#define JP_HOST_DEVICE [[gnu::always_inline]]
#endif
