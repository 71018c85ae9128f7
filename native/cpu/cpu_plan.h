// SPDX-License-Identifier: Apache-2.0
// How a problem is laid over a CPU's cores: a pure function of the problem and the machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "native/problem/packed.h"
#include "native/problem/problem.h"

namespace jp::cpu {

// What multiplies bfloat16 values, each with more than the one before.
enum class Units {
  kWidened,  // nothing of its own: they are widened to float32
  kPairs,    // AVX512_BF16: dot products of pairs
  kTiles,    // AMX: products of tiles of 16 rows, too
};

struct CpuFacts {
  int threads;       // workers to use at most
  int vector_lanes;  // float32 lanes of a SIMD register
  int vector_count;  // SIMD registers
  int64_t l2_bytes;  // private to a core
  int64_t l3_bytes;  // shared by all, 0 if there is none
  // Of waking other threads, once a call, in multiply-adds of vectors. Two workers were level with
  // one where they saved so much: T = 5 to 128, H = 64 to 256, B = 1 to 16, half a millisecond
  // between calls, on two cores of an AMD EPYC (AVX-512).
  double waking = 256e3;
  Units units = Units::kWidened;
};

// One matrix product, [rows,K] x [K, units * gates], and how the workers divide it. The units are
// taken in whole SIMD vectors; a vector of units has a vector of columns for each gate. A slice is
// a run of unit vectors. Its columns, unit after unit, are cut into panels, the last of which is
// padded with zeros.
//
// Forward, panels are those of packed.h: all units have one layout, whoever has packed them, and a
// slice begins with one of its panels. Elsewhere a slice's panels are its own, and as wide as suits
// its rows.
struct GemmPlan {
  int64_t k;             // K, made even: rows of weights are taken in pairs
  int lanes;             // units in a vector
  int gates;             // vectors of columns to a vector of units
  int panel_vectors;     // vectors across a panel: one of kPanelVectors
  int tile_rows;         // batch rows that share a load of the weights
  int block_units;       // vectors of units that are updated together, after their products
  int64_t unit_vectors;  // vectors of units
  int unit_step;         // a slice begins at a multiple of so many
  int64_t unit_steps;    // in all vectors of units, the last one perhaps not whole
  int slices;            // each has unit_steps / slices, rounded either way
  int workers;           // each has a slice or, of the only one, batch / workers rows
  int64_t panels;        // of the largest slice
  int64_t slice_bytes;   // of its packed weights
  bool in_place;         // weights are read where they lie, and not packed
  int64_t packed_k;      // rows that are packed at a time: all, once, or some, at every use; or 0
  int64_t packed_bytes;  // of all slices
  bool common_panels;    // the slices' panels are those of one layout, and lie side by side
  bool prefetches;       // weights are prefetched: a slice's are more than an L2 cache holds
  Units units;           // of bfloat16 weights, whoever shares the work: they show in the sums

  // Inlined by force, as in cell.h. The divisions are of 32 bits, which are faster: no memory holds
  // the weights of 2^32 vectors of units.
  [[gnu::always_inline]] int64_t PaddedUnits() const { return unit_vectors * lanes; }
  [[gnu::always_inline]] int64_t FirstUnit(int slice) const {
    const int64_t step = static_cast<uint32_t>(slice) * static_cast<uint32_t>(unit_steps) / slices;
    return step == unit_steps ? unit_vectors : step * unit_step;
  }
  [[gnu::always_inline]] int SliceOf(int64_t unit) const {
    return static_cast<int>((static_cast<uint32_t>(unit / unit_step + 1) * slices - 1) /
                            static_cast<uint32_t>(unit_steps));
  }
  // Where a slice's panels begin, among those of all slices.
  [[gnu::always_inline]] int64_t FirstPanel(int slice) const {
    return common_panels ? FirstUnit(slice) * gates / panel_vectors : slice * panels;
  }
  // Whether workers divide the batch, and not the units.
  [[gnu::always_inline]] bool SplitsBatch() const { return slices < workers; }
  // Values from one row to the next of a left operand that is rounded to bfloat16: whole cache
  // lines, and one more.
  [[gnu::always_inline]] int64_t RoundedStride() const { return (k + 31) / 32 * 32 + 32; }
  // Has the weights read where they lie.
  void ReadInPlace() {
    in_place = true;
    packed_k = packed_bytes = 0;
  }
  // Whether the weights are packed once for all uses.
  [[gnu::always_inline]] bool PackedOnce() const { return packed_k == k; }
};

// Of one pass of a problem. Its groups are run one after the other by all workers, or several at
// once, each by a worker of its own: those never wait for each other. The products that no step
// waits for are taken for a chunk of time steps at once, by the same workers: before the first of
// its steps forward, after the last backward.
struct CpuPlan {
  int groups_at_once;   // 1, or as many workers, of which each runs whole groups
  GemmPlan recurrence;  // forward [B,H] x [H, units * gates], backward [B,G*H] x [G*H, units]
  int64_t chunk_steps;
  // Forward [rows of a chunk, I] x [I, units * gates]; backward [rows of a chunk, G*H] x
  // [G*H, input features], whose slices may be empty.
  GemmPlan inputs;
  GemmPlan d_weights;  // backward: [I or H, rows of a chunk] x [rows, units * gates], in float32
  std::string_view residency;  // the level that holds the packed weights: "L2", "L3" or "memory"
};

// Precondition: batch, steps and hidden, and the facts' threads, lanes and registers, are at least
// 1; the dtype is not float16.
CpuPlan PlanCpu(const Problem& problem, const CpuFacts& facts);

// Whose panels a product reads.
enum class Panels {
  kOwn,     // packed for this product alone
  kCommon,  // those of packed.h, packed by the call
  kGiven,   // the same, packed before it
};

// A product of a step with these workers, who divide the batch or, if not, the units. `uses`: how
// often all weights are read. `multiplied_by`: what the facts have, or less.
GemmPlan PlanGemm(int64_t k, int64_t units, int gates, int64_t batch, int weight_bytes, int workers,
                  bool splits_batch, int64_t uses, const CpuFacts& facts,
                  Panels panels = Panels::kOwn, Units multiplied_by = Units::kWidened);

// Whether weights that so many rows use, so many times, are read where they lie.
bool ReadsInPlace(int64_t batch, int64_t uses, Units multiplied_by, const CpuFacts& facts);

// Packing kernels, whose panels the workers divide.
GemmPlan PlanPacking(const Packing& packing, const CpuFacts& facts);

// A plan in words.
std::string Explain(const CpuPlan& plan, const CpuFacts& facts);

// Vectors across a panel. Which is chosen shows in the time alone: results are bitwise the same.
inline constexpr int kPanelVectors[] = {3, 4, 5, 6};

// Of so many vectors across a panel the first `used` have weights, or more: how many are computed.
[[gnu::always_inline]] constexpr int ComputedVectors(int vectors, int64_t used) {
  return vectors == 4 && used <= 2 ? static_cast<int>(used) : vectors;
}
inline constexpr int kMostBlockVectors = 24;  // of columns: panels and units come out even
inline constexpr int kBlockRows = 32;         // batch rows that are taken at once

inline constexpr int kChunkRows = 128;  // batch rows of a chunk, at most, if several steps

inline constexpr int kInPlaceRows = 16;  // that are multiplied at once with weights in place
// Up to so many rows, weights that are used once are not worth packing: 48 with vectors of 16
// lanes, 16 with narrower ones. Measured with AVX-512 and AVX2, on one core and two, at 16 to 128
// rows, [128, 512] to [1024, 4096]: up to here packing took up to 2.6 times as long; on two cores
// packing was faster from 64 and from 32 rows on.
[[gnu::always_inline]] constexpr int MostInPlaceRows(int lanes) { return lanes < 16 ? 16 : 48; }

inline constexpr int kWidenedRows = 12;  // with as many, bfloat16 weights are widened beforehand

// The most rows of a tile whose accumulators and operands fit in the registers; widening bfloat16
// on the way takes two more.
[[gnu::always_inline]] constexpr int TileRows(int vectors, int registers, int weight_bytes) {
  const int rows = (registers - (weight_bytes == 2 ? 6 : 4)) / vectors;
  return rows < 1 ? 1 : rows > 6 ? 6 : rows;
}

}  // namespace jp::cpu
