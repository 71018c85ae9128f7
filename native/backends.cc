// SPDX-License-Identifier: Apache-2.0
// The registry of backends: a line each. The one place in native/ that names cuda/.
#include "native/backends.h"

#include "native/cpu/backend.h"
#ifdef JP_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace jp {

std::span<const Backend* const> Backends() {
  static const Backend* const backends[] = {
      &cpu::CpuBackend(),
#ifdef JP_WITH_CUDA
      &cuda::CudaBackend(),
#endif
  };
  return backends;
}

const Backend* FindBackend(std::string_view platform) {
  for (const Backend* backend : Backends()) {
    if (backend->Platform() == platform) return backend;
  }
  return nullptr;
}

}  // namespace jp
