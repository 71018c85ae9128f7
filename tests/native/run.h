// SPDX-License-Identifier: Apache-2.0
// Runs a problem on the kernels of an instruction set of the test's choice.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "native/cpu/backend.h"
#include "native/cpu/isa.h"

namespace jp::test {

// Runs every helper on a thread of its own; they end with the call.
struct Threads {
  std::vector<std::thread> threads;
  ~Threads() {
    for (std::thread& thread : threads) thread.join();
  }
  cpu::Team::Schedule schedule() {
    return [this](std::function<void()> task) { threads.emplace_back(std::move(task)); };
  }
};

inline int runs_by_units = 0, runs_by_rows = 0, runs_by_groups = 0;  // of several workers

// As the backend does, but for any instruction set, and on working memory full of NaN, so that a
// value which is read before it is written shows.
template <class CallArrays>
void RunOn(const cpu::Isa& isa, const Problem& problem, int threads, const CallArrays& arrays) {
  const cpu::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  const cpu::CpuPlan plan = PlanCpu(problem, facts);
  cpu::Workspace<CallArrays> space = cpu::MakeWorkspace<CallArrays>(problem, plan);
  space.arrays = arrays;
  const size_t bytes = LayOut(space, nullptr);
  std::vector<uint8_t> memory(bytes + 63, 0xff);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  LayOut(space, memory.data() + (64 - address % 64) % 64);
  const cpu::GemmPlan& gemm = plan.recurrence;
  if (gemm.workers > 1) ++(gemm.SplitsBatch() ? runs_by_rows : runs_by_units);
  if (plan.groups_at_once > 1) ++runs_by_groups;
  Threads helpers;
  RunWorkspace(isa, space, helpers.schedule());
}

// Packs kernels [kernels, rows, gates * units] as the backend does, but for any instruction set.
inline void PackOn(const cpu::Isa& isa, const Packing& packing, int threads, const void* from,
                   void* to) {
  const cpu::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  const cpu::PackCall call{packing, PlanPacking(packing, facts), from, to};
  Threads helpers;
  cpu::Team::Run(call.plan.workers, 1, helpers.schedule(),
                 [&](int worker, int64_t) { isa.pack(call, worker); });
}

}  // namespace jp::test
