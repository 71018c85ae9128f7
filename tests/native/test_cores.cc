// SPDX-License-Identifier: Apache-2.0
// Two workers use two cores, even where the system has put them on one; and it may still put the
// threads wherever it might before. Needs two cores: with one it only sees that nothing changes.
#include "native/cpu/cores.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "native/cpu/team.h"
#include "tests/native/check.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace {

using jp::cpu::CurrentCore;
using jp::cpu::LeaveCores;
using jp::cpu::Team;

#if defined(__linux__)

cpu_set_t Allowed() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CHECK(sched_getaffinity(0, sizeof cores, &cores) == 0);
  return cores;
}

void Allow(const cpu_set_t& cores) { CHECK(sched_setaffinity(0, sizeof cores, &cores) == 0); }

cpu_set_t Only(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  return cores;
}

int First(const cpu_set_t& cores) {
  int core = 0;
  while (!CPU_ISSET(core, &cores)) ++core;
  return core;
}

// Puts the calling thread on a core and leaves it free to go.
void StartOn(int core) {
  const cpu_set_t allowed = Allowed();
  Allow(Only(core));
  Allow(allowed);
}

void TestLeaving() {
  const cpu_set_t allowed = Allowed();
  const int first = First(allowed);
  Allow(Only(first));
  CHECK(CurrentCore() == first, CurrentCore(), first);
  LeaveCores(std::vector{first}, 1);  // it may be nowhere else
  CHECK(CurrentCore() == first, CurrentCore(), first);
  Allow(allowed);
  if (CPU_COUNT(&allowed) < 2) return;

  const auto leaves = [&](int workers) {
    StartOn(first);
    LeaveCores(std::vector{first, -1, 1 << 20}, workers);
    const bool left = CurrentCore() != first;
    const cpu_set_t after = Allowed();
    CHECK(CPU_EQUAL(&after, &allowed));
    return left;
  };
  // The system may move a thread at any time, so that one trial may mislead.
  int left = 0;
  for (int trial = 0; trial < 20; ++trial) left += leaves(CPU_COUNT(&allowed));
  CHECK(left > 10, left);
  left = 0;
  for (int trial = 0; trial < 20; ++trial) left += leaves(CPU_COUNT(&allowed) + 1);
  CHECK(left < 10, left);
}

// A thread that sleeps on the caller's core until it is given a task.
class Helper {
 public:
  explicit Helper(int core) : thread_([this, core] { Run(core); }) {
    while (!sleeps_) std::this_thread::yield();
    StartOn(core);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ~Helper() { thread_.join(); }

  void Give(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      task_ = std::move(task);
    }
    given_.notify_one();
  }

 private:
  void Run(int core) {
    StartOn(core);
    std::unique_lock lock(mutex_);
    sleeps_ = true;
    given_.wait(lock, [this] { return task_ != nullptr; });
    lock.unlock();
    task_();
  }

  std::mutex mutex_;
  std::condition_variable given_;
  std::function<void()> task_;
  std::atomic<bool> sleeps_ = false;
  std::thread thread_;  // the last: it needs the others
};

// The cores of two workers halfway through a job of a millisecond.
bool UsesTwoCores(int core) {
  Helper helper(core);
  int cores[2] = {-1, -1};
  Team::Run(
      2, 100, [&](auto task) { helper.Give(std::move(task)); },
      [&](int slice, int64_t step) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(10);
        while (std::chrono::steady_clock::now() < end) {
        }
        if (step == 50) cores[slice] = CurrentCore();
      });
  return cores[0] != cores[1];
}

void TestTeam() {
  const cpu_set_t allowed = Allowed();
  if (CPU_COUNT(&allowed) < 2) return;
  // Where other programs keep the cores busy, the system may have no other core to give for a
  // while.
  int two = 0;
  for (int round = 0; round < 30 && two <= 5; ++round) {
    if (round > 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    two = 0;
    for (int trial = 0; trial < 20; ++trial) two += UsesTwoCores(First(allowed));
  }
  CHECK(two > 5, two);
}

#else

void TestLeaving() {
  CHECK(CurrentCore() == -1, CurrentCore());
  LeaveCores(std::vector{0}, 1);
}

void TestTeam() {}

#endif

}  // namespace

int main() {
  TestLeaving();
  TestTeam();
  return jp::test::Finish("cores");
}
