// SPDX-License-Identifier: Apache-2.0
// What a custom call keeps from XLA's instantiate stage on: its problem, and a plan for each place
// where it has run.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "native/backend.h"
#include "native/problem/parse.h"
#include "native/xla/buffers.h"

namespace jp::ffi {

// A problem of known sizes, and its plan for a number of threads or a device.
struct PlannedCall {
  Problem problem;
  int threads, device;
  std::shared_ptr<const Plan> plan;
  std::string refusal;  // why the plan does not run, or empty
  BufferTypes buffers;
  Facts facts;
  const PlannedCall* next;  // made before this one
};

class PlannedCalls {
 public:
  // Plans and compiles for the places where a call may run, if all sizes are known. Throws
  // std::exception where that fails, and std::invalid_argument where all of them refuse the
  // problem.
  PlannedCalls(const Backend& backend, ParsedProblem parsed);

  // The call for these buffers and resources; planned and compiled now if there is none yet. Takes
  // no lock otherwise. Throws std::exception where that fails; a call may be one that is refused.
  const PlannedCall& Find(const xffi::RemainingArgs& operands, const xffi::RemainingRets& results,
                          const Resources& resources);

  const Backend& backend() const { return backend_; }

 private:
  const PlannedCall* Lookup(const Problem& problem, const Resources& resources) const;
  const PlannedCall& Make(const Problem& problem, const Resources& resources);

  const Backend& backend_;
  const Problem problem_;
  const Options options_;
  const bool has_all_sizes_;
  std::mutex mutex_;  // of making calls
  std::vector<std::unique_ptr<const PlannedCall>> made_;
  std::atomic<const PlannedCall*> newest_ = nullptr;
};

}  // namespace jp::ffi
