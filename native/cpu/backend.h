// SPDX-License-Identifier: Apache-2.0
// The CPU's backend.
#pragma once

#include "native/backend.h"
#include "native/cpu/cpu_plan.h"
#include "native/cpu/isa.h"
#include "native/cpu/team.h"
#include "native/cpu/workspace.h"

namespace jp::cpu {

const Backend& TheBackend();

// Why there is no CPU kernel for a problem on a machine; empty: there is one.
std::string Refusal(const Problem& problem, const CpuFacts& facts);

// The forward and the backward kernel of an instruction set, chosen by their argument.
inline auto PhaseOf(const Isa& isa, const Workspace<Forward>&) { return isa.forward; }
inline auto PhaseOf(const Isa& isa, const Workspace<Backward>&) { return isa.backward; }

// Runs a workspace whose arrays and memory are set, on this thread and the schedule's.
template <class Arrays>
void RunWorkspace(const Isa& isa, const Workspace<Arrays>& space, const Team::Schedule& schedule) {
  const auto run = PhaseOf(isa, space);
  const int64_t groups = space.problem.groups, phases = groups * space.phases;
  const int at_once = space.plan.groups_at_once;
  if (at_once == 1) {
    return Team::Run(space.plan.recurrence.workers, phases, schedule,
                     [&](int worker, int64_t phase) { run(space, worker, phase); });
  }
  // Every worker runs its groups from their first phase to their last.
  Team::Run(at_once, space.SumsParts() ? 2 : 1, schedule, [&](int worker, int64_t phase) {
    if (phase == 1) return run(space, worker, phases);
    const Workspace<Arrays> own = OfWorker(space, worker);
    for (int64_t group = worker; group < groups; group += at_once) {
      for (int64_t i = 0; i < space.phases; ++i) run(own, 0, group * space.phases + i);
    }
  });
}

}  // namespace jp::cpu
