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

// Why there is no CPU kernel for a problem; empty: there is one.
std::string Refusal(const Problem& problem);

// The forward and the backward kernel of an instruction set, chosen by their argument.
inline auto PhaseOf(const Isa& isa, const Workspace<Forward>&) { return isa.forward; }
inline auto PhaseOf(const Isa& isa, const Workspace<Backward>&) { return isa.backward; }

// Runs a workspace whose arrays and memory are set, on this thread and the schedule's.
template <class Arrays>
void RunWorkspace(const Isa& isa, const Workspace<Arrays>& space, const Team::Schedule& schedule) {
  Team::Run(space.plan.recurrence.workers, space.problem.groups * space.phases, schedule,
            [&space, run = PhaseOf(isa, space)](int worker, int64_t phase) {
              run(space, worker, phase);
            });
}

}  // namespace jp::cpu
