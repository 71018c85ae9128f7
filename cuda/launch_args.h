// SPDX-License-Identifier: Apache-2.0
// What one launch is given: the call's arrays, their geometry, and where the blocks meet.
#pragma once

#include "cuda/geometry.h"
#include "native/problem/arrays.h"
#include "native/problem/rows.h"

namespace jp::cuda {

// The exchanged sequence, a message of every step: h forward, the recurrent gates' gradient
// backward. In global memory it is the result of that name where 16-byte loads can read that, a
// copy with padded rows otherwise. Strides, and the length of a row, in elements.
struct Messages {
  void* base;
  int64_t row, step_stride, row_stride;
  bool is_result;  // the values need not be stored a second time
  // Forward, [N,B] rows: what a row reads at its first step and at a reset, likewise the operands
  // or padded copies. No reset state: zeros.
  const void* initial_state;
  const void* reset_state;
  int64_t state_stride;
};

// What waits call the kernel that is given these arrays.
template <class Arrays>
inline constexpr const char* kKernelOf = "backward";
template <>
inline constexpr const char* kKernelOf<Forward> = "forward";
template <class Arrays>
inline constexpr bool kIsForwardPass = false;
template <>
inline constexpr bool kIsForwardPass<Forward> = true;

template <class Arrays>
struct LaunchArgs {
  static constexpr bool kIsForward = kIsForwardPass<Arrays>;
  static constexpr const char* kKernel = kKernelOf<Arrays>;

  int hidden;
  Rows<int> rows;  // of group 0; in the type that the kernels count in
  int ways;        // groups of a layer: 2 if it has both directions
  Arrays arrays;
  Geometry geometry;
  Messages messages;
  uint32_t* counters;   // one a tile of a team, zero at first; Exchange::kGridBarrier's
  Vec16B* streamed;     // weights that neither registers nor shared memory hold
  uint64_t timeout_ns;  // before a block gives up on the others

  JP_HOST_DEVICE int LayerOf(int group) const { return ways == 2 ? group / 2 : group; }
  JP_HOST_DEVICE Rows<int> RowsOf(int group) const {
    Rows<int> r = rows;
    if (ways == 2) r.reverse = group % 2 != 0;
    if (r.lengths != nullptr) r.lengths += int64_t{LayerOf(group)} * r.batch;
    if (r.resets != nullptr) r.resets += int64_t{group} * r.batch * r.steps;
    return r;
  }
  // The group's first row in sequences, where its rows are `ways` apart.
  JP_HOST_DEVICE int64_t FirstRow(int group) const {
    const int64_t first = int64_t{LayerOf(group)} * rows.batch * rows.steps * ways;
    return ways == 2 ? first + group % 2 : first;
  }
};

}  // namespace jp::cuda
