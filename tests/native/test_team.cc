// SPDX-License-Identifier: Apache-2.0
// Every step of every slice runs once and in order, whatever happens to the helpers.
#include "native/cpu/team.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "tests/native/check.h"

namespace {

using jp::cpu::Team;

// Threads that outlive the call that asked for them, joined at the end of a test.
class Threads {
 public:
  ~Threads() { Join(); }
  void Start(std::function<void()> task) {
    std::lock_guard lock(mutex_);
    threads_.emplace_back(std::move(task));
  }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

void SleepFor(int microseconds) {
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 31)) * 0x9e3779b97f4a7c15u;
  return value ^ (value >> 29);
}

// A job in which every slice reads what all slices wrote a step before, in plain memory: a step
// that is missed, repeated, early or unordered changes the result, or is a race that a sanitizer
// sees.
class Chain {
 public:
  Chain(int slices, int64_t steps, int longest_delay)
      : slices_(slices), steps_(steps), delay_(longest_delay), runs_(slices), buffer_{} {
    for (auto& values : buffer_) values.resize(slices);
  }

  Team::Work work() {
    return [this](int slice, int64_t step) { Step(slice, step); };
  }

  void CheckResult() {
    Chain alone(slices_, steps_, 0);
    for (int64_t step = 0; step < steps_; ++step) {
      for (int slice = 0; slice < slices_; ++slice) alone.Step(slice, step);
    }
    for (int slice = 0; slice < slices_; ++slice) {
      CHECK(runs_[slice] == steps_, runs_[slice], steps_);
      CHECK(buffer_[steps_ & 1][slice] == alone.buffer_[steps_ & 1][slice], slice);
    }
  }

 private:
  void Step(int slice, int64_t step) {
    if (delay_ > 0) {
      const uint64_t chance = Mix(static_cast<uint64_t>(slice * 1000003 + step));
      if (chance % 3 == 0) SleepFor(static_cast<int>(chance % delay_));
    }
    CHECK(runs_[slice] == step, slice, runs_[slice], step);
    uint64_t sum = static_cast<uint64_t>(slice);
    for (uint64_t value : buffer_[step & 1]) sum = Mix(sum + value);
    buffer_[(step + 1) & 1][slice] = sum;
    ++runs_[slice];
  }

  const int slices_;
  const int64_t steps_;
  const int delay_;
  std::vector<int64_t> runs_;
  std::vector<uint64_t> buffer_[2];
};

void Run(int slices, int64_t steps, int delay, const Team::Schedule& schedule) {
  Chain chain(slices, steps, delay);
  Team::Run(slices, steps, schedule, chain.work());
  chain.CheckResult();
}

void TestHelpersAtOnce() {
  for (int slices = 1; slices <= 8; ++slices) {
    for (int64_t steps : {0, 1, 2, 37}) {
      Threads threads;
      Run(slices, steps, 0, [&](auto task) { threads.Start(std::move(task)); });
    }
  }
}

void TestDelayedSlices() {
  for (int slices : {2, 3, 5}) {
    Threads threads;
    Run(slices, 41, 200, [&](auto task) { threads.Start(std::move(task)); });
  }
}

void TestLateHelpers() {
  for (int delay : {10, 300, 3000}) {
    Threads threads;
    std::atomic<int> nth = 0;
    Run(5, 97, 50, [&](auto task) {
      const int mine = delay * ++nth;
      threads.Start([task = std::move(task), mine] {
        SleepFor(mine);
        task();
      });
    });
  }
}

void TestHelpersThatNeverCome() {
  for (int slices = 1; slices <= 8; ++slices) Run(slices, 19, 0, [](auto) {});
  int asked = 0;
  Run(6, 19, 0, [&](auto) { ++asked; });
  CHECK(asked == 5, asked);
}

// The work must not be called once Run has returned: what it refers to is gone.
void TestHelpersAfterTheEnd() {
  std::vector<std::function<void()>> kept;
  {
    auto chain = std::make_unique<Chain>(4, 23, 0);
    Team::Run(4, 23, [&](auto task) { kept.push_back(std::move(task)); }, chain->work());
    chain->CheckResult();
  }
  for (const auto& task : kept) task();
}

// The caller may find all steps taken, and its own slice done, and still has to wait for the
// others.
void TestHelpersBeforeTheCaller() {
  Threads threads;
  std::atomic<bool> begun = false, ended = false;
  int nth = 0;
  const auto schedule = [&](auto task) {
    if (++nth != 2) return;  // the last helper, which goes on with the caller's slice
    threads.Start(std::move(task));
    while (!begun) std::this_thread::yield();
  };
  Team::Run(3, 7, schedule, [&](int slice, int64_t step) {
    if (slice != 1 || step != 6) return;
    begun = true;
    SleepFor(20000);
    ended = true;
  });
  CHECK(ended);
}

void TestHelpersInline() {
  Run(5, 23, 0, [](auto task) { task(); });
}

void TestHelpersTwice() {
  Threads threads;
  Run(4, 61, 30, [&](auto task) {
    threads.Start(task);
    threads.Start(task);
  });
}

// More jobs than threads, on one pool that runs their helpers in any order or not at all.
void TestManyTeamsAtOnce() {
  Threads helpers;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&helpers, caller] {
      std::mt19937 random(caller);
      for (int job = 0; job < 5; ++job) {
        const int slices = 1 + static_cast<int>(random() % 6);
        Run(slices, 1 + random() % 30, 20, [&](auto task) {
          if (random() % 3 == 0) return;
          helpers.Start(std::move(task));
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  TestHelpersAtOnce();
  TestDelayedSlices();
  TestLateHelpers();
  TestHelpersThatNeverCome();
  TestHelpersAfterTheEnd();
  TestHelpersBeforeTheCaller();
  TestHelpersInline();
  TestHelpersTwice();
  TestManyTeamsAtOnce();
  return jp::test::Finish("team");
}
