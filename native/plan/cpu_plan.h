// How a recurrence is laid over a CPU's cores: a pure function of the problem and the machine.
#pragma once

#include <cstdint>
#include <string>

#include "native/cells/cell.h"

namespace jp {

struct CpuFacts {
  int threads;       // workers to use at most
  int vector_lanes;  // float32 lanes of a SIMD register
  int vector_count;  // SIMD registers
  int64_t l2_bytes;  // private to a core
  int64_t l3_bytes;  // shared by all, 0 if there is none
};

// One direction: a product [B,K] x [K,units * gates], cut into panels of units.
struct CpuPass {
  int64_t depth;    // K, made even: rows of weights are taken in pairs
  int vectors;      // SIMD vectors across a panel
  int panel_units;  // units in a panel
  int64_t panels;
  int slices;            // workers; each has panels / slices panels, rounded either way
  int tile_rows;         // batch rows that share a load of the weights
  int64_t packed_bytes;  // weights, packed, all slices
  int64_t slice_bytes;   // of the largest slice

  // Inlined by force: units built for different instruction sets must not share a copy.
  [[gnu::always_inline]] int64_t padded_units() const { return panels * panel_units; }
  [[gnu::always_inline]] int64_t first_panel(int slice) const { return slice * panels / slices; }
};

struct CpuPlan {
  CpuPass forward;
  CpuPass backward;
  std::string residency;  // "L2", "L3" or "memory": the level that holds the packed weights
  std::string explanation;
};

// Precondition: hidden, batch and the facts' threads, lanes and registers are at least 1.
CpuPlan PlanCpu(const CellTraits& cell, int64_t hidden, int64_t batch, int weight_bytes,
                const CpuFacts& facts);

// Vectors across a forward panel of this cell: one a gate, or several where the gates are few.
constexpr int ForwardVectors(int gates) { return gates == 1 ? 4 : gates; }
inline constexpr int kBackwardVectors = 4;

// Rows of a tile so that its sums and one row of weights stay in registers.
constexpr int TileRows(int vectors, int registers) {
  const int rows = (registers - 4) / vectors;
  return rows < 1 ? 1 : rows > 6 ? 6 : rows;
}

}  // namespace jp
