// SPDX-License-Identifier: Apache-2.0
// Where rows, states and weights of one group lie in a problem's arrays.
#pragma once

#include "native/problem/problem.h"

namespace jp {

struct ArrayViews {
  const Problem& problem;
  int64_t group;

  // Row b of a sequence at time t: `features` values.
  template <class P>
  JP_HOST_DEVICE P* Sequence(P* base, int64_t b, int64_t t, int64_t features) const {
    const int64_t row = problem.time_major ? t * problem.batch + b : b * problem.steps + t;
    return base + (group * problem.batch * problem.steps + row) * features;
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
};

}  // namespace jp
