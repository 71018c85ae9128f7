// SPDX-License-Identifier: Apache-2.0
// Where rows, states and weights of one group lie in a problem's arrays.
#pragma once

#include "native/problem/problem.h"
#include "native/problem/rows.h"

namespace jp {

// One group's weights: rows of H columns for each gate, of which some arrays have all gates' side
// by side, and others one gate's.
template <class T, class Void>
struct GroupWeights {
  Void* const* arrays = nullptr;  // the first is null if the problem has no such weights
  int64_t begin = 0;              // of the group in each of them
  int64_t hidden = 0;
  int64_t stride = 0;  // from a row to the next

  JP_HOST_DEVICE bool Exist() const { return arrays != nullptr && arrays[0] != nullptr; }
  JP_HOST_DEVICE T* Array(int64_t i) const { return static_cast<T*>(arrays[i]) + begin; }
  // A gate's columns of the first row.
  JP_HOST_DEVICE T* Gate(int64_t gate) const {
    return stride == hidden ? Array(gate) : Array(0) + gate * hidden;
  }
};

struct ArrayViews {
  const Problem& problem;
  int64_t group;
  int64_t ways = problem.ways(), layer = group / ways, way = group % ways;

  // Row b of a sequence at time t: `features` values of this group.
  template <class P>
  JP_HOST_DEVICE P* Sequence(P* base, int64_t b, int64_t t, int64_t features) const {
    return base + (Row(b, t) * ways + way) * features;
  }
  // The same of the inputs, which a layer's groups share.
  template <class P>
  JP_HOST_DEVICE P* Input(P* base, int64_t b, int64_t t) const {
    return base + Row(b, t) * problem.inputs;
  }
  // Row b of a state: H values.
  template <class P>
  JP_HOST_DEVICE P* State(P* base, int64_t b) const {
    return base + (group * problem.batch + b) * problem.hidden;
  }
  // The group's part of an array with `size` values a group; null if `base` is.
  template <class P>
  JP_HOST_DEVICE P* Group(P* base, int64_t size) const {
    return base == nullptr ? nullptr : base + group * size;
  }
  // The group's part of weights with so many rows.
  template <class T, class Void>
  JP_HOST_DEVICE GroupWeights<T, Void> Weights(Void* const* arrays, int64_t rows) const {
    const int64_t gates = problem.gates_of_an_array(), stride = gates * problem.hidden;
    if (problem.weights == WeightArrays::kOne) {
      return {arrays, group * rows * stride, problem.hidden, stride};
    }
    return {arrays + way * (problem.cell.gates / gates), layer * rows * stride, problem.hidden,
            stride};
  }
  JP_HOST_DEVICE Rows<int64_t> Times(const int32_t* lengths, const bool* resets) const {
    return {problem.batch,
            problem.steps,
            problem.Reverses(group),
            problem.time_major,
            lengths == nullptr ? nullptr : lengths + layer * problem.batch,
            Group(resets, problem.batch * problem.steps)};
  }

 private:
  JP_HOST_DEVICE int64_t Row(int64_t b, int64_t t) const {
    const int64_t row = problem.time_major ? t * problem.batch + b : b * problem.steps + t;
    return layer * problem.batch * problem.steps + row;
  }
};

}  // namespace jp
