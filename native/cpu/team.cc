// SPDX-License-Identifier: Apache-2.0
// How workers claim phases, and wait for each other.
#include "native/cpu/team.h"

#include <thread>
#include <utility>
#include <vector>

#include "native/cpu/cores.h"

namespace jp::cpu {
namespace {

// Looks at a slice before a waiting thread begins to yield: enough to bridge the jitter of a phase,
// too few to keep a core from a worker that the system has preempted.
constexpr int kSpins = 2000;

// Threads that work for any team.
std::atomic<int> working_threads{0};

struct Working {
  Working() { working_threads.fetch_add(1, std::memory_order_relaxed); }
  ~Working() { working_threads.fetch_sub(1, std::memory_order_relaxed); }
};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int slices, int64_t phases, Work work)
    : slices_(slices),
      phases_(phases),
      work_(std::move(work)),
      progress_(std::make_unique<Progress[]>(slices)),
      cores_(std::make_unique<std::atomic<int>[]>(slices)) {
  for (int i = 0; i < slices; ++i) cores_[i] = kNowhere;
}

void Team::Run(int slices, int64_t phases, const Schedule& schedule, Work work) {
  if (slices == 1) {
    const Working working;
    for (int64_t phase = 0; phase < phases; ++phase) work(0, phase);
    return;
  }
  // Shared: a helper that starts after the job is done finds no phase to claim, and only looks
  // here.
  auto team = std::shared_ptr<Team>(new Team(slices, phases, std::move(work)));
  team->cores_[0] = CurrentCore();
  for (int helper = 1; helper < slices; ++helper) {
    schedule([team, helper] {
      if (!team->IsDone()) team->RunAs(helper);
    });
  }
  // Yield once, so that a helper which was scheduled on this core can start and migrate away.
  std::this_thread::yield();
  team->RunAs(0);
}

bool Team::IsDone() const {
  for (int slice = 0; slice < slices_; ++slice) {
    if (progress_[slice].value.load(std::memory_order_relaxed) < 2 * phases_) return false;
  }
  return true;
}

void Team::RunAs(int home) {
  const Working working;
  Spread(home);
  bool kept = false;  // the home slice, for the phase to come
  for (int64_t phase = 0; phase < phases_; ++phase) {
    if (kept || TryClaim(home, phase)) {
      kept = phase + 1 < phases_;
      RunClaimed(home, phase, kept);
    }
    for (int i = 0; i < slices_; ++i) Await((home + i) % slices_, phase, home, kept);
  }
}

// Leaves this worker's core if another worker is on it: systems often wake a thread on a busy core
// while the next one idles, and leave it there for milliseconds.
void Team::Spread(int home) {
  const int here = CurrentCore();
  std::vector<int> others;
  bool shared = false;
  for (int i = 0; i < slices_; ++i) {
    if (i == home) continue;
    others.push_back(cores_[i].load(std::memory_order_relaxed));
    shared = shared || (here != kNowhere && others.back() == here);
  }
  if (shared) LeaveCores(others, working_threads.load(std::memory_order_relaxed));
  cores_[home].store(shared ? CurrentCore() : here, std::memory_order_relaxed);
}

bool Team::TryClaim(int slice, int64_t phase) {
  int64_t free = 2 * phase;
  return progress_[slice].value.compare_exchange_strong(
      free, 2 * phase + 1, std::memory_order_acq_rel, std::memory_order_acquire);
}

void Team::RunClaimed(int slice, int64_t phase, bool keep) {
  work_(slice, phase);
  progress_[slice].value.store(2 * phase + (keep ? 3 : 2), std::memory_order_release);
}

// A waiter may itself hold its slice, but only for a later phase than the one it waits for, so that
// every chain of waiters ends at a running worker. Before it yields, and so may be preempted, it
// releases the slice: others could do the work.
void Team::Await(int slice, int64_t phase, int home, bool& kept) {
  const std::atomic<int64_t>& value = progress_[slice].value;
  for (int spins = 0;; ++spins) {
    const int64_t seen = value.load(std::memory_order_acquire);
    if (seen >= 2 * phase + 2) return;
    if (seen == 2 * phase && TryClaim(slice, phase)) return RunClaimed(slice, phase, false);
    if (spins < kSpins) {
      Pause();
      continue;
    }
    if (kept) {
      progress_[home].value.store(2 * phase + 2, std::memory_order_release);
      kept = false;
    }
    std::this_thread::yield();
  }
}

}  // namespace jp::cpu
