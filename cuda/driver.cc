// SPDX-License-Identifier: Apache-2.0
// Opens the driver once, and keeps one primary context a device.
#include "cuda/driver.h"

#include <array>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "cuda/library.h"

namespace jp::cuda {
namespace {

constexpr const char* kVariable = "JAX_PERSISTENT_LIBCUDA";

Driver Open() {
  const char* named = std::getenv(kVariable);
  const std::string name = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
  Driver driver;
  try {
    const Library library({name});
#define JP_FIND(member, symbol, parameters) library.Find(driver.member, symbol);
    JP_CUDA_DRIVER_FUNCTIONS(JP_FIND)
#undef JP_FIND
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("no NVIDIA driver (") + error.what() +
                             "). Install one, or name its libcuda.so with " + kVariable);
  }
  const auto check = [&](const char* what, CUresult error) {
    if (error == CUDA_SUCCESS) return;
    const char* text = nullptr;
    driver.GetErrorString(error, &text);
    throw std::runtime_error(std::string(what) + ": " + (text != nullptr ? text : "no reason"));
  };
  check("cuInit", driver.Init(0));
  check("cuDriverGetVersion", driver.DriverGetVersion(&driver.version));
  return driver;
}

// Retained once and never released: jax keeps it as long as the process lives.
CUcontext PrimaryContext(int ordinal) {
  constexpr int kMostDevices = 64;
  static std::mutex mutex;
  static std::array<CUcontext, kMostDevices> kept{};
  if (ordinal < 0 || ordinal >= kMostDevices) {
    throw std::runtime_error("GPU " + std::to_string(ordinal) + ": expected 0 to " +
                             std::to_string(kMostDevices - 1));
  }
  const std::lock_guard lock(mutex);
  if (kept[ordinal] == nullptr) {
    CUdevice device = 0;
    Check("cuDeviceGet", TheDriver().DeviceGet(&device, ordinal));
    Check("cuDevicePrimaryCtxRetain", TheDriver().DevicePrimaryCtxRetain(&kept[ordinal], device));
  }
  return kept[ordinal];
}

}  // namespace

const Driver& TheDriver() {
  static const Driver driver = Open();  // tried again at the next call if it throws
  return driver;
}

std::string Describe(const char* what, CUresult error) {
  const char* name = nullptr;
  const char* text = nullptr;
  TheDriver().GetErrorName(error, &name);
  TheDriver().GetErrorString(error, &text);
  std::string said = std::string(what) + ": " +
                     (name != nullptr ? name : "error " + std::to_string(error)) +
                     (text != nullptr ? " (" + std::string(text) + ")" : "");
  if (error == CUDA_ERROR_ASSERT) said += "; what stood still is on stderr, under jax_persistent";
  return said;
}

void Check(const char* what, CUresult error) {
  if (error != CUDA_SUCCESS) throw std::runtime_error(Describe(what, error));
}

DeviceScope::DeviceScope(int ordinal) {
  Check("cuCtxPushCurrent", TheDriver().CtxPushCurrent(PrimaryContext(ordinal)));
}
DeviceScope::~DeviceScope() {
  CUcontext popped = nullptr;
  TheDriver().CtxPopCurrent(&popped);
}

}  // namespace jp::cuda
