// SPDX-License-Identifier: Apache-2.0
// The backends of this build.
#pragma once

#include <span>
#include <string_view>

#include "native/backend.h"

namespace jp {

std::span<const Backend* const> Backends();

// The one for a platform, or null. jax says "cuda" where XLA says "CUDA": case does not matter.
const Backend* FindBackend(std::string_view platform);

// The one that runs on threads.
const Backend& PoolBackend();

}  // namespace jp
