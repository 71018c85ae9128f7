// Which core a thread runs on.
#pragma once

#include <span>

namespace jp::cpu {

// The calling thread's core, or -1 where the system doesn't say.
int CurrentCore();

// Has the calling thread go on on a core that is none of `taken`, wherever it may run; from there
// the system may move it as ever. Does nothing if there is no such core, or if `workers` threads,
// those of all jobs that run, are more than there are cores: some must share one.
void LeaveCores(std::span<const int> taken, int workers);

}  // namespace jp::cpu
