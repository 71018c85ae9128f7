// SPDX-License-Identifier: Apache-2.0
// CUDA's driver, opened at run time: a machine without one can load the package all the same.
#pragma once

#include <string>

#include "cuda/driver_api.h"

namespace jp::cuda {

struct Driver {
#define JP_DRIVER_MEMBER(member, symbol, parameters) CUresult(*member) parameters = nullptr;
  JP_CUDA_DRIVER_FUNCTIONS(JP_DRIVER_MEMBER)
#undef JP_DRIVER_MEMBER
  int version = 0;  // the newest CUDA that it can run: 13000 for 13.0
};

// The driver, initialised: libcuda.so.1, or what the environment variable JAX_PERSISTENT_LIBCUDA
// names. Throws std::runtime_error that says what is missing and how to mend it.
const Driver& TheDriver();

// "cuLaunchKernelEx: CUDA_ERROR_... (its meaning)".
std::string Describe(const char* what, CUresult error);
// Throws std::runtime_error in those words unless all is well.
void Check(const char* what, CUresult error);

// Makes a device's primary context, which jax uses too, the thread's current one for a while.
class DeviceScope {
 public:
  explicit DeviceScope(int ordinal);  // throws std::runtime_error
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
};

}  // namespace jp::cuda
