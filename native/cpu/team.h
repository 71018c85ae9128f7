// SPDX-License-Identifier: Apache-2.0
// Workers that meet once a phase, on threads that may come late or never.
//
// A job is a number of slices times a number of phases; phase p + 1 of any slice needs phase p of
// all. A worker runs its home slice and then waits for the others, but a slice that nobody has
// claimed is run by whoever waits for it. So a worker only ever waits for work that is being done,
// or is about to be done by a worker that waits in the same way for the phase before: the calling
// thread alone can finish a job, and no number of jobs on a pool of any size can deadlock. Which
// thread ran a slice never shows in the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace jp::cpu {

class Team {
 public:
  // Runs one phase of one slice. Called only between the start and the end of `Run`.
  using Work = std::function<void(int slice, int64_t phase)>;
  // Asks for a function to be run on another thread, at some time or never.
  using Schedule = std::function<void(std::function<void()>)>;

  // Runs all phases of all slices, on this thread and on up to slices - 1 others.
  static void Run(int slices, int64_t phases, const Schedule& schedule, Work work);

 private:
  Team(int slices, int64_t phases, Work work);
  bool IsDone() const;
  void RunAs(int home);
  void Spread(int home);
  bool TryClaim(int slice, int64_t phase);
  void RunClaimed(int slice, int64_t phase, bool keep);
  void Await(int slice, int64_t phase, int home, bool& kept);

  // 2p: phase p is free. 2p + 1: it is claimed. 2p + 2: it is done, and p + 1 is free. 2p + 3: it
  // is done, and the worker has kept the slice for p + 1, which saves the round trip to the other
  // cores that a claim takes.
  struct alignas(64) Progress {
    std::atomic<int64_t> value{0};
  };

  static constexpr int kNowhere = -1;

  const int slices_;
  const int64_t phases_;
  const Work work_;
  const std::unique_ptr<Progress[]> progress_;
  const std::unique_ptr<std::atomic<int>[]> cores_;  // where each worker was last seen
};

}  // namespace jp::cpu
