// SPDX-License-Identifier: Apache-2.0
// Which core a thread runs on, as Linux says.
#include "native/cpu/cores.h"

#include <algorithm>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace jp::cpu {

#if defined(__linux__)

int CoreCount() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int CurrentCore() { return sched_getcpu(); }

void LeaveCores(std::span<const int> taken, int workers) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  if (CPU_COUNT(&allowed) < workers) return;
  cpu_set_t free = allowed;
  for (int core : taken) {
    if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

int CoreCount() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int CurrentCore() { return -1; }

void LeaveCores(std::span<const int> /*taken*/, int /*workers*/) {}

#endif

}  // namespace jp::cpu
