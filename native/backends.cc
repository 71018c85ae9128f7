// SPDX-License-Identifier: Apache-2.0
// The registry of backends: a line each. The one place in native/ that names cuda/.
#include "native/backends.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "cuda/backend.h"
#include "native/cpu/backend.h"

namespace jp {

std::span<const Backend* const> Backends() {
  static const Backend* const backends[] = {
      &cpu::TheBackend(),
      &cuda::TheBackend(),  // plans in every build, and runs in those that have its kernels
  };
  return backends;
}

const Backend* FindBackend(std::string_view platform) {
  const auto same = [](unsigned char a, unsigned char b) {
    return std::tolower(a) == std::tolower(b);
  };
  for (const Backend* backend : Backends()) {
    const std::string_view name = backend->Platform();
    if (std::equal(name.begin(), name.end(), platform.begin(), platform.end(), same)) {
      return backend;
    }
  }
  return nullptr;
}

const Backend& PoolBackend() {
  for (const Backend* backend : Backends()) {
    if (backend->KindOfExecutor() == Executor::kThreadPool) return *backend;
  }
  throw std::logic_error("no backend runs on threads");
}

}  // namespace jp
