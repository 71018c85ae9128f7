// How a recurrence is laid over a CPU's cores: a pure function of the problem and the machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "native/cells/cell.h"

namespace jp {

struct CpuFacts {
  int threads;       // workers to use at most
  int vector_lanes;  // float32 lanes of a SIMD register
  int vector_count;  // SIMD registers
  int64_t l2_bytes;  // private to a core
  int64_t l3_bytes;  // shared by all, 0 if there is none
};

// One direction: a product [B,K] x [K,units * gates]. Units are counted in whole SIMD vectors; a
// vector of units has one vector of columns a gate. A slice's columns, unit after unit, are cut
// into panels, the last one filled up with zeros.
struct CpuPass {
  int64_t depth;         // K, made even: rows of weights are taken in pairs
  int lanes;             // units in a vector
  int gates;             // vectors of columns to a vector of units
  int vectors;           // vectors across a panel: one of kPanelVectors
  int tile_rows;         // batch rows that share a load of the weights
  int block_units;       // vectors of units that are updated together, after their products
  int64_t units;         // vectors
  int slices;            // of the units: each has units / slices, rounded either way
  int workers;           // each has a slice, or of the only one batch / workers rows
  int64_t panels;        // of the largest slice
  int64_t slice_bytes;   // of its packed weights
  int64_t packed_depth;  // rows that are packed at a time: all, once, or some, at every use
  int64_t packed_bytes;  // of all slices
  bool streams;          // a slice's weights outgrow an L2 cache: those to come are asked for

  // Inlined by force: units built for different instruction sets must not share a copy. In 32 bits,
  // which divide faster: no memory holds the weights of 2^32 vectors of units.
  [[gnu::always_inline]] int64_t padded_units() const { return units * lanes; }
  [[gnu::always_inline]] int64_t first_unit(int slice) const {
    return static_cast<uint32_t>(slice) * static_cast<uint32_t>(units) / slices;
  }
  [[gnu::always_inline]] int slice_of(int64_t unit) const {
    return static_cast<int>((static_cast<uint32_t>(unit + 1) * slices - 1) /
                            static_cast<uint32_t>(units));
  }
  [[gnu::always_inline]] bool by_rows() const { return slices < workers; }
  [[gnu::always_inline]] bool kept() const { return packed_depth == depth; }
};

struct CpuPlan {
  CpuPass forward;
  CpuPass backward;
  std::string_view residency;  // the level that holds the packed weights: "L2", "L3" or "memory"
};

// Of a sequence of `steps` time steps. Precondition: hidden, batch, steps and the facts' threads,
// lanes and registers are at least 1.
CpuPlan PlanCpu(const CellTraits& cell, int64_t hidden, int64_t batch, int64_t steps,
                int weight_bytes, const CpuFacts& facts);

// A plan in words; not for every call.
std::string Explain(const CpuPlan& plan, const CpuFacts& facts);

// The products that no step waits for, by the same workers: for many steps at once, a chunk, before
// the first of its steps forward and after the last of them backward.
struct CpuChunkPlan {
  int64_t steps;      // in a chunk
  CpuPass inputs;     // [rows of a chunk, I] x [I, units * gates]
  CpuPass d_inputs;   // [rows of a chunk, G*H] x [G*H, vectors of inputs]; slices may be empty
  CpuPass d_weights;  // [I or H, rows of a chunk] x [rows of a chunk, units * gates], floats
};

// The same precondition.
CpuChunkPlan PlanCpuChunk(const CellTraits& cell, int64_t inputs, int64_t hidden, int64_t batch,
                          int64_t all_steps, int weight_bytes, const CpuFacts& facts);

// Vectors across a panel: whatever is fastest for the batch, without a trace in the result.
inline constexpr int kPanelVectors[] = {3, 4, 5, 6};
inline constexpr int kMostBlockVectors = 24;  // of columns: panels and units come out even
inline constexpr int kBlockRows = 32;         // batch rows that are taken at once

inline constexpr int kChunkRows = 128;  // batch rows of a chunk, at most, if several steps

inline constexpr int kWidenedRows = 12;  // from which on bfloat16 is widened beforehand

// Rows of a tile so that its sums and the values that feed them stay in registers; widening
// bfloat16 on the way takes two more.
constexpr int TileRows(int vectors, int registers, int weight_bytes) {
  const int rows = (registers - (weight_bytes == 2 ? 6 : 4)) / vectors;
  return rows < 1 ? 1 : rows > 6 ? 6 : rows;
}

}  // namespace jp
