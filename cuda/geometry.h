// SPDX-License-Identifier: Apache-2.0
// Where everything of a launch lies: what the planner decides and the kernels read.
//
// A step is a product [rows, K] x [K, B] (kernel_traits.h says what rows and K are). The rows are
// cut into unit blocks of one warp's width, K into chunks of 64 bytes. Warps lie over both in a
// grid of warps_m x warps_k: a warp owns one unit block and a run of chunks, whose weights it keeps
// in registers, then in shared memory, and streams the rest from L2. Where K is cut over the blocks
// of a cluster, these have one unit block together, a part of K each, and look after a part of the
// units each. A team of blocks holds all
// weights of a group once; the batch goes over its teams in tiles of 8 rows.
#pragma once

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

// One kernel launch's geometry; the kernels read it as it is.
struct Geometry {
  Exchange exchange;    // not kAny
  int width;            // of a unit block, in the fewest units that a warp can cover
  int unit_blocks;      // that cover H
  int blocks_per_team;  // a team holds all weights of a group
  int warps_m;          // unit blocks of a block
  int warps_k;          // warps that share a unit block's K
  int cut;              // blocks of a cluster that share the K of their units
  int chunks;           // of K
  int block_chunks;     // of a block
  int warp_chunks;      // of a warp at most
  int shared_chunks;    // of those, past the registers, in shared memory
  int stream_chunks;    // and past that, in L2
  int segment;          // elements of one gate in an exchanged row, padded to 16 bytes
  int teams_per_group;
  int tiles_per_team;
  int first_team;  // of this launch, counted over all groups
  int receivers;   // blocks of a team that have units
  int senders;     // warps of a team that write a part of each message
  // Byte offsets in shared memory. `reset_sums` is the gradient of the reset state, where wanted;
  // `ends` is tile_ends.h's, where rows have lengths.
  // `sums` are those that a cluster's other blocks send of K that is cut.
  int states, reset_sums, stage, messages, sums, barriers, ends, weights, shared_bytes;
  int message_pitch;  // bytes between two rows of a message in shared memory
  // Whether the places of messages, filled before the launch, have left L2 when their turn comes:
  // they are then fetched two steps ahead. A bool; as an int the struct has no padding.
  int fetches_ahead;

  constexpr bool cluster() const { return exchange == Exchange::kCluster; }
  constexpr int cluster_blocks() const { return cluster() ? blocks_per_team : cut; }
  constexpr int threads() const { return warps_m * warps_k * kLanes; }
};

}  // namespace jp::cuda
