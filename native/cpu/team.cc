#include "native/cpu/team.h"

#include <thread>
#include <utility>

namespace jp::cpu {
namespace {

// Long enough to bridge the jitter of a step, short enough not to take a core from a worker that
// the system has put aside: after it, the thread yields at every look.
constexpr int kSpins = 2000;

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
      progress_(std::make_unique<Progress[]>(slices)) {}

void Team::Run(int slices, int64_t steps, const Schedule& schedule, Work work) {
  // Shared: a helper that starts after the job is done finds no step to claim, and only looks here.
  auto team = std::shared_ptr<Team>(new Team(slices, steps, std::move(work)));
  for (int helper = 1; helper < slices; ++helper) {
    schedule([team, helper] { team->RunAs(helper); });
  }
  team->RunAs(0);
}

void Team::RunAs(int home) {
  for (int64_t step = 0; step < steps_; ++step) {
    TryStep(home, step);
    for (int i = 0; i < slices_; ++i) Await((home + i) % slices_, step);
  }
}

bool Team::TryStep(int slice, int64_t step) {
  std::atomic<int64_t>& value = progress_[slice].value;
  int64_t free = 2 * step;
  if (!value.compare_exchange_strong(free, 2 * step + 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
    return false;
  }
  work_(slice, step);
  value.store(2 * step + 2, std::memory_order_release);
  return true;
}

void Team::Await(int slice, int64_t step) {
  const std::atomic<int64_t>& value = progress_[slice].value;
  for (int spins = 0;; ++spins) {
    const int64_t seen = value.load(std::memory_order_acquire);
    if (seen >= 2 * step + 2) return;
    if (seen == 2 * step && TryStep(slice, step)) return;
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace jp::cpu
