// SPDX-License-Identifier: Apache-2.0
// Which core a thread runs on.
#pragma once

#include <span>

namespace jp::cpu {

// Cores that this process may run on, at least 1.
int CoreCount();

// The calling thread's core, or -1 where the system doesn't say.
int CurrentCore();

// Migrates the calling thread to a core not in `taken`; its affinity mask is restored afterwards.
// Does nothing if there is no such core, or if there are fewer cores than `workers`, the threads of
// all running jobs: some must share one.
void LeaveCores(std::span<const int> taken, int workers);

}  // namespace jp::cpu
