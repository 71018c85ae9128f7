// SPDX-License-Identifier: Apache-2.0
// Runs a problem on the kernels of an instruction set of the test's choice.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

#include "native/cpu/backend.h"
#include "native/cpu/isa.h"

namespace jp::test {

// Threads that run what is scheduled. As in XLA's pool, a task may begin when the call that
// scheduled it is over, so that no call waits for a helper whose core another program has.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { RunTasks(); });
  }
  ~Pool() {
    for (size_t i = 0; i < threads_.size(); ++i) Add(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }
  Pool(const Pool&) = delete;

  cpu::Team::Schedule schedule() {
    return [this](std::function<void()> task) { Add(std::move(task)); };
  }

 private:
  void Add(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push(std::move(task));
    }
    added_.notify_one();
  }
  std::function<void()> Next() {
    std::unique_lock lock(mutex_);
    added_.wait(lock, [this] { return !tasks_.empty(); });
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop();
    return task;
  }
  void RunTasks() {
    while (const std::function<void()> task = Next()) task();
  }

  std::mutex mutex_;
  std::condition_variable added_;
  std::queue<std::function<void()>> tasks_;  // an empty one ends a thread
  std::vector<std::thread> threads_;
};

// As many helpers as any test's call has.
inline cpu::Team::Schedule OnHelpers() {
  static Pool pool(4);
  return pool.schedule();
}

// What multiplies bfloat16 in the kernels that are run.
inline cpu::Units units = cpu::Units::kWidened;

inline int runs_by_units = 0, runs_by_rows = 0, runs_by_groups = 0;  // of several workers

// As the backend does, but for any instruction set, and on working memory full of NaN, so that a
// value which is read before it is written shows.
template <class CallArrays>
void RunOn(const cpu::Isa& isa, const Problem& problem, int threads, const CallArrays& arrays) {
  cpu::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  facts.waking = 0;  // several workers for the least work
  facts.units = units;
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
  RunWorkspace(isa, space, OnHelpers());
}

// Packs kernels [kernels, rows, gates * units] as the backend does, but for any instruction set.
inline void PackOn(const cpu::Isa& isa, const Packing& packing, int threads, const void* from,
                   void* to) {
  const cpu::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  const cpu::PackCall call{packing, PlanPacking(packing, facts), from, to};
  cpu::Team::Run(call.plan.workers, 1, OnHelpers(),
                 [&](int worker, int64_t) { isa.pack(call, worker); });
}

}  // namespace jp::test
