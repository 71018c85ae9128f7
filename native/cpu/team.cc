#include "native/cpu/team.h"

#include <thread>
#include <utility>
#include <vector>

#include "native/cpu/cores.h"

namespace jp::cpu {
namespace {

// Long enough to bridge the jitter of a step, short enough not to take a core from a worker that
// the system has put aside: after it, the thread yields at every look.
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

Team::Team(int slices, int64_t steps, Work work)
    : slices_(slices),
      steps_(steps),
      work_(std::move(work)),
      progress_(std::make_unique<Progress[]>(slices)),
      cores_(std::make_unique<std::atomic<int>[]>(slices)) {
  for (int i = 0; i < slices; ++i) cores_[i] = kNowhere;
}

void Team::Run(int slices, int64_t steps, const Schedule& schedule, Work work) {
  // Shared: a helper that starts after the job is done finds no step to claim, and only looks here.
  auto team = std::shared_ptr<Team>(new Team(slices, steps, std::move(work)));
  team->cores_[0] = CurrentCore();
  for (int helper = 1; helper < slices; ++helper) {
    schedule([team, helper] {
      if (!team->IsDone()) team->RunAs(helper);
    });
  }
  // A helper that was woken on this thread's core, and waits for it, comes now, and leaves it.
  if (slices > 1) std::this_thread::yield();
  team->RunAs(0);
}

bool Team::IsDone() const {
  for (int slice = 0; slice < slices_; ++slice) {
    if (progress_[slice].value.load(std::memory_order_relaxed) < 2 * steps_) return false;
  }
  return true;
}

void Team::RunAs(int home) {
  const Working working;
  Spread(home);
  bool kept = false;  // the home slice, for the step that comes
  for (int64_t step = 0; step < steps_; ++step) {
    if (kept || TryClaim(home, step)) {
      kept = step + 1 < steps_;
      RunClaimed(home, step, kept);
    }
    for (int i = 0; i < slices_; ++i) Await((home + i) % slices_, step, home, kept);
  }
}

// Leaves this worker's core if another worker is on it: a system that wakes a thread may well have
// it share a core while the next one idles, and leaves it there for milliseconds.
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

bool Team::TryClaim(int slice, int64_t step) {
  int64_t free = 2 * step;
  return progress_[slice].value.compare_exchange_strong(
      free, 2 * step + 1, std::memory_order_acq_rel, std::memory_order_acquire);
}

void Team::RunClaimed(int slice, int64_t step, bool keep) {
  work_(slice, step);
  progress_[slice].value.store(2 * step + (keep ? 3 : 2), std::memory_order_release);
}

// A worker waits for a step with its own slice kept for the next one. So does whoever it waits for,
// if at all, with the slice kept for this step and waiting for the one before: it ends with someone
// who works. But a worker that may be put aside keeps nothing, as others could do its work.
void Team::Await(int slice, int64_t step, int home, bool& kept) {
  const std::atomic<int64_t>& value = progress_[slice].value;
  for (int spins = 0;; ++spins) {
    const int64_t seen = value.load(std::memory_order_acquire);
    if (seen >= 2 * step + 2) return;
    if (seen == 2 * step && TryClaim(slice, step)) return RunClaimed(slice, step, false);
    if (spins < kSpins) {
      Pause();
      continue;
    }
    if (kept) {
      progress_[home].value.store(2 * step + 2, std::memory_order_release);
      kept = false;
    }
    std::this_thread::yield();
  }
}

}  // namespace jp::cpu
