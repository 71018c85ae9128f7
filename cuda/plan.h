// SPDX-License-Identifier: Apache-2.0
// How a recurrence is laid over a GPU's blocks: a pure function of the problem and the device.
//
// A step is a product [rows, K] x [K, B] (kernel_traits.h says what rows and K are). The rows are
// cut into unit blocks of one warp's width, K into chunks of 64 bytes. Warps lie over both in a
// grid of warps_m x warps_k: a warp owns one unit block and a run of chunks, whose weights it keeps
// in registers, then in shared memory, and streams the rest from L2. A team of blocks holds all
// weights of a group once; the batch goes over its teams in tiles of 8 rows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cuda/kernel_traits.h"

namespace jp::cuda {

// How the blocks of a team exchange a step's values: through L2, where a reader waits for the data
// itself or for a counter that every writer adds to; or through a cluster's shared memory.
enum class Exchange {
  kAny,  // the planner's choice, of the first and the last
  kGridData,
  kGridBarrier,
  kCluster,
};

// The exchange of a name: "" (any), "grid", "grid-barrier" or "cluster"; nothing for other names.
std::optional<Exchange> ExchangeOf(std::string_view name);

struct DeviceFacts {
  int architecture = 0;    // 90 for sm_90
  int processors = 0;      // streaming multiprocessors; 0: no kernels run there
  int shared_bytes = 0;    // a block can have at most
  int cluster_blocks = 1;  // of the largest cluster, 1 where there are none
  int64_t l2_bytes = 0;
};

// The flagship of an architecture, for plans without a device: 80, 86, 89, 90 or 100; others have
// no processors.
DeviceFacts FactsOfArchitecture(int architecture);

// One kernel launch's geometry; the kernels read it as it is.
struct Geometry {
  Exchange exchange;    // not kAny
  int unit_blocks;      // that cover H
  int blocks_per_team;  // a team holds all weights of a group
  int warps_m;          // unit blocks of a block
  int warps_k;          // warps that share a unit block's K
  int chunks;           // of K
  int warp_chunks;      // of a warp at most
  int shared_chunks;    // of those, past the registers, in shared memory
  int stream_chunks;    // and past that, in L2
  int segment;          // elements of one gate in an exchanged row, padded to 16 bytes
  int teams_per_group;
  int tiles_per_team;
  int first_team;  // of this launch, counted over all groups
  int receivers;   // blocks of a team that have units
  int senders;     // warps of a team that write a part of each message
  // Byte offsets in shared memory. `reset_sums` is the gradient of the reset state, where wanted.
  int states, reset_sums, stage, messages, barriers, weights, shared_bytes;
  int message_pitch;  // bytes between two rows of a message in shared memory

  constexpr bool cluster() const { return exchange == Exchange::kCluster; }
  constexpr int threads() const { return warps_m * warps_k * kLanes; }
};

struct KernelPlan {
  std::string refusal;  // why no kernel runs the problem; empty: one does
  Precision precision{};
  Geometry geometry{};     // of the first launch
  int teams = 0;           // of all groups and rows
  int launch_teams = 0;    // of a launch at most; what is beyond waits for the launch before
  int64_t weight_bytes{};  // of one team, padding included
  // Of those, what every step reads from L2, all blocks of a launch together.
  int64_t streamed_bytes{};

  bool runs() const { return refusal.empty(); }
};

KernelPlan PlanKernel(const Problem& problem, const DeviceFacts& facts, Exchange exchange);

// Of a plan that runs, in words: "grid" or "cluster" and the farthest that weights lie; and all of
// it in a sentence.
std::string Residency(const KernelPlan& plan);
std::string Explain(const KernelPlan& plan, const DeviceFacts& facts);

}  // namespace jp::cuda
