// SPDX-License-Identifier: Apache-2.0
// How a recurrence is laid over a GPU's blocks: a pure function of the problem and the device.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cuda/geometry.h"

namespace jp::cuda {

// The exchange of a name: "" (any), "grid", "grid-barrier" or "cluster"; nothing for other names.
std::optional<Exchange> ExchangeOf(std::string_view name);

struct DeviceFacts {
  int architecture = 0;    // 90 for sm_90
  int processors = 0;      // streaming multiprocessors; 0: no kernels run there
  int shared_bytes = 0;    // a block can have at most
  int cluster_blocks = 1;  // of the largest cluster, 1 where there are none
  int64_t l2_bytes = 0;
};

// The flagship of an architecture, for plans without a device: 80, 86, 89, 90, 100 or 120; others
// have no processors.
DeviceFacts FactsOfArchitecture(int architecture);

struct KernelPlan {
  std::string refusal;  // why no kernel runs the problem; empty: one does
  Precision precision{};
  Geometry geometry{};     // of the first launch
  int teams = 0;           // of all groups and rows
  int launch_teams = 0;    // of a launch at most; what is beyond waits for the launch before
  int64_t weight_bytes{};  // of one team, padding included
  // Of those, what every step reads from L2, all blocks of a launch together.
  int64_t streamed_bytes{};
  // Whether the messages of a grid are a result's own rows; if not, they have rows in the
  // workspace.
  bool sends_results = false;

  bool runs() const { return refusal.empty(); }
};

// `width`: of unit blocks, one of kWidths. `cut`: blocks that share a K. 0: the planner's choice.
KernelPlan PlanKernel(const Problem& problem, const DeviceFacts& facts, Exchange exchange,
                      int width = 0, int cut = 0);

// What the workspaces of a recurrence need at most, whatever its groups, batch and steps: the bytes
// of a line of L2 or less are not counted.
struct WorkspaceBound {
  int64_t fixed = 0;     // of any call
  int64_t per_row = 0;   // of each row of each group
  int64_t per_step = 0;  // of each of those at each step
};
WorkspaceBound BoundWorkspace(const Problem& problem, const DeviceFacts& facts, Exchange exchange);

// Elements of a row of a message, and whether that is one of the result's own: rows of H elements
// that can be read 16 bytes at a time.
int64_t MessageRow(const Problem& problem, int segment);
bool RowsAreAligned(const Problem& problem, int segment);

// Of a plan that runs, in words: "grid" or "cluster" and the farthest that weights lie; and all of
// it in a sentence.
std::string Residency(const KernelPlan& plan);
std::string Explain(const KernelPlan& plan, const DeviceFacts& facts);

}  // namespace jp::cuda
