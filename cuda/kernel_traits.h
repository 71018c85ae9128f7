// SPDX-License-Identifier: Apache-2.0
// The constants of a kernel's template that the planner must know: how many units a warp covers and
// how many of its weights stay in registers. They follow from the cell's own constants.
#pragma once

#include "cuda/arch_types.h"
#include "native/problem/problem.h"

namespace jp::cuda {

inline constexpr int kTileRows = 8;     // batch rows of a tile: the columns of mma.sync
inline constexpr int kMmaRows = 16;     // rows of weights in one mma.sync
inline constexpr int kChunkBytes = 64;  // of a row of the exchanged vector: four lanes' loads
inline constexpr int kMostWarps = 8;    // of a block

struct KernelTraits {
  int gates;            // rows of weights a unit
  int eights;           // a unit block has 8 * eights units
  int segments;         // of H elements each in an exchanged row
  int states;           // floats that a unit keeps from step to step
  int register_chunks;  // a warp's chunks whose weights stay in registers
  int loads_in_flight;  // of a message, a chunk each

  constexpr int units() const { return 8 * eights; }
  constexpr int tiles() const { return gates * units() / kMmaRows; }
  constexpr int slots() const { return 2 * eights; }  // (unit, row) pairs of a lane
  // Vec16Bs of a lane that hold its weights of one chunk.
  constexpr int chunk_vectors() const { return 2 * tiles(); }
  constexpr int chunk_registers() const { return 4 * chunk_vectors(); }
};

// Loads of a message that a warp has in flight, its first ones waited for together. Each group of
// them is a trip to L2. In float32 the 64 sums forward leave registers for four, and so do those of
// a wide unit block, whose warps have few chunks of a message each.
constexpr int LoadsInFlight(Pass pass, Precision precision, int width) {
  return width > 1 || (pass == Pass::kForward && precision == Precision::kFloat32) ? 4 : 8;
}

// A thread of 256 has 255 registers; half are for weights. The backward pass in float32 has 64 sums
// and the gradients of all gates beside them, and gives up two chunks.
constexpr int WeightRegisters(Pass pass, Precision precision) {
  return pass == Pass::kBackward && precision == Precision::kFloat32 ? 112 : 128;
}

// How many times the fewest units a warp may cover: more of them share what it reads of a message.
inline constexpr int kWidths[] = {1, 2, 4};

// Forward the rows of the product are all gates of the units and K is H; backward the rows are the
// units and K is G*H.
constexpr KernelTraits TraitsOf(Pass pass, int gates, int states, Precision precision,
                                int width = 1) {
  const bool forward = pass == Pass::kForward;
  KernelTraits traits{forward ? gates : 1, width, forward ? 1 : gates, states, 0, 0};
  if (traits.gates % 2 != 0) traits.eights *= 2;  // units fill whole tiles
  // An even number: a GRU's fifth chunk in float32 would be the one that spills.
  traits.register_chunks = WeightRegisters(pass, precision) / traits.chunk_registers() / 2 * 2;
  traits.loads_in_flight = LoadsInFlight(pass, precision, width);
  return traits;
}

// Does a kernel of such a width leave registers for two chunks of weights and their sums? In
// float32 the product takes longer than the message in any case.
constexpr bool HasWidth(Pass pass, int gates, Precision precision, int width) {
  constexpr int kMostTiles = 6;
  return width == 1 || (precision != Precision::kFloat32 &&
                        TraitsOf(pass, gates, 1, precision, width).tiles() <= kMostTiles);
}

}  // namespace jp::cuda
