// Workers that meet once a step, on threads that may come late or never.
//
// A job is a number of slices times a number of steps; step s + 1 of any slice needs step s of all.
// A worker runs its home slice and then waits for the others, but a slice nobody has claimed is run
// by whoever waits for it. So a worker only ever waits for work that is being done, or is about to
// be by a worker that waits in the same way for the step before: the calling thread alone can
// finish a job, and no number of jobs on a pool of any size can deadlock. Which thread ran a slice
// never shows in the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace jp::cpu {

class Team {
 public:
  // Runs one step of one slice. Called only between the start and the end of `Run`.
  using Work = std::function<void(int slice, int64_t step)>;
  // Asks for a function to be run on another thread, at some time or never.
  using Schedule = std::function<void(std::function<void()>)>;

  // Runs all steps of all slices, on this thread and on up to slices - 1 others.
  static void Run(int slices, int64_t steps, const Schedule& schedule, Work work);

 private:
  Team(int slices, int64_t steps, Work work);
  bool IsDone() const;
  void RunAs(int home);
  void Spread(int home);
  bool TryClaim(int slice, int64_t step);
  void RunClaimed(int slice, int64_t step, bool keep);
  void Await(int slice, int64_t step, int home, bool& kept);

  // 2s: step s is free. 2s + 1: it is claimed. 2s + 2: it is done, and s + 1 is free. 2s + 3: it is
  // done, and whoever did it has kept the slice for s + 1, too, which saves the way to the other
  // cores and back that a claim takes.
  struct alignas(64) Progress {
    std::atomic<int64_t> value{0};
  };

  static constexpr int kNowhere = -1;

  const int slices_;
  const int64_t steps_;
  const Work work_;
  const std::unique_ptr<Progress[]> progress_;
  const std::unique_ptr<std::atomic<int>[]> cores_;  // where each worker was last seen
};

}  // namespace jp::cpu
