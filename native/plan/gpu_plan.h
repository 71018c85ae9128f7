// How a recurrence is laid over a GPU's blocks: a pure function of the problem and the device.
//
// A step is a product [rows, K] x [K, B]: forward, the rows are the gates of all units and K is H;
// backward, the rows are the units and K is G*H. The rows are cut into unit blocks of one warp's
// width, K into chunks of 64 bytes. Warps lie over both in a grid of warps_m x warps_k: a warp owns
// one unit block and a run of chunks, whose weights it keeps in registers, then in shared memory,
// and streams the rest from L2. A team of `slices` blocks holds all weights of a group once; the
// batch goes over them in tiles of 8 rows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "native/cells/cell.h"

namespace jp {

// What is multiplied with what: the operands' type, and for float32 whether it may be rounded.
enum class GpuNumber { kBfloat16, kFloat16, kTf32, kFloat32 };

// What the caller asks for; kAny is the planner's choice.
enum class GpuResidency { kAny, kGrid, kCluster };

struct GpuFacts {
  int architecture;    // 90 for sm_90
  int processors;      // streaming multiprocessors
  int shared_bytes;    // a block can have at most
  int cluster_blocks;  // of the largest cluster, 1 where there are none
  int64_t l2_bytes;
};

inline constexpr int kGpuTileRows = 8;     // batch rows of a tile: the matrix unit's columns
inline constexpr int kGpuChunkBytes = 64;  // of a row of the exchanged vector: four lanes' loads
inline constexpr int kGpuWarps = 8;        // of a block at most
inline constexpr int kGpuLanes = 32;

constexpr int GpuElementBytes(GpuNumber n) {
  return n == GpuNumber::kBfloat16 || n == GpuNumber::kFloat16 ? 2 : 4;
}

// One pass's kernel, as its template sees it: constants that the plan must know.
struct GpuKernelTraits {
  int gates;            // rows of a unit
  int halves;           // a unit block has 8 * halves units
  int segments;         // of H elements each in an exchanged row
  int states;           // floats a unit keeps
  int register_chunks;  // a warp's chunks whose weights stay in registers

  constexpr int units() const { return 8 * halves; }
  constexpr int tiles() const { return gates * halves / 2; }  // of 16 rows
  constexpr int slots() const { return 2 * halves; }          // (unit, row) pairs of a lane
  constexpr int chunk_quads() const { return 2 * tiles(); }   // of a lane's weights in a chunk
};

// Four gates fill two tiles with 8 units; otherwise 16 units fill one tile a gate.
constexpr GpuKernelTraits GpuForwardTraits(int gates, int states, GpuNumber /*number*/) {
  return {gates, gates == 4 ? 1 : 2, 1, states, gates == 1 ? 16 : gates == 3 ? 4 : 8};
}
constexpr GpuKernelTraits GpuBackwardTraits(int gates, int states, GpuNumber number) {
  return {1, 2, gates, states, number == GpuNumber::kFloat32 ? 14 : 16};
}

// One kernel launch's geometry; the kernels read it as it is.
struct GpuPass {
  bool cluster;       // exchange through the cluster's shared memory, else through L2
  int unit_blocks;    // that cover H
  int slices;         // blocks of a team
  int warps_m;        // unit blocks of a block
  int warps_k;        // warps that share a unit block's K
  int chunks;         // of K
  int warp_chunks;    // of a warp at most
  int shared_chunks;  // of those, past the registers, in shared memory
  int stream_chunks;  // and past that, in L2
  int segment;        // elements of one gate in an exchanged row, padded to 16 bytes
  int teams_per_group;
  int tiles_per_team;
  int first_team;  // of this launch, counted over all groups
  int receivers;   // blocks of a team that have units
  int senders;     // warps of a team that write a part of each message
  // Byte offsets in shared memory.
  int states, weights, stage, messages, barriers, shared_bytes;
  int message_pitch;  // bytes between two rows of a message in shared memory

  constexpr int threads() const { return warps_m * warps_k * kGpuLanes; }
};

struct GpuPlan {
  bool runs;             // false: as the reference, for the reason in `explanation`
  GpuPass pass;          // of the first launch
  int teams;             // of all groups and rows
  int launch_teams;      // of a launch at most; what is beyond waits for the launch before
  int64_t weight_bytes;  // of one team, padding included
  int64_t
      streamed_bytes;  // of those, what every step reads from L2, all blocks of a launch together
  std::string residency;  // "grid" or "cluster", and the farthest that weights lie
  std::string explanation;
};

struct GpuProblem {
  CellTraits cell;
  bool backward;
  GpuNumber number;
  int64_t groups, batch, hidden;
};

// Precondition: groups, batch and hidden are at least 1.
GpuPlan PlanGpu(const GpuProblem& problem, const GpuFacts& facts, GpuResidency residency);

// The residency that a caller's word for the exchange asks for: "" (any), "grid", "grid-barrier" or
// "cluster"; nothing for other words.
std::optional<GpuResidency> ResidencyOf(std::string_view exchange);

// The flagship of an architecture, for plans without a device: 80, 86, 89, 90 or 100; others have
// no processors.
GpuFacts GpuOfArchitecture(int architecture);

}  // namespace jp
