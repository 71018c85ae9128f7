// SPDX-License-Identifier: Apache-2.0
// The registry of backends: a line each. The one place in native/ that names cuda/.
#include "native/backends.h"

#include <algorithm>
#include <cctype>

#include "native/cpu/backend.h"
#if __has_include("cuda/backend.h")
#include "cuda/backend.h"
#define JP_HAS_CUDA_BACKEND
#endif

namespace jp {

std::span<const Backend* const> Backends() {
  static const Backend* const backends[] = {
      &cpu::TheBackend(),
#ifdef JP_HAS_CUDA_BACKEND
      &cuda::TheBackend(),
#endif
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

}  // namespace jp
