// SPDX-License-Identifier: Apache-2.0
// When a row runs, begins, and what state each of its steps starts from: the one place that knows
// how lengths, reverse and resets act together.
//
// A row b runs at the times t < length(b). Forward it runs them in order or, reversed, from the
// last to the first. The state before a step is the initial one before a row's first step, else
// that after the step before; where a reset is set, it is the reset state instead.
#pragma once

#include "native/cells/cell.h"

namespace jp {

// Of one group. `Int` is what the caller counts in.
template <class Int>
struct Rows {
  Int batch, steps;
  bool reverse, time_major;
  const int32_t* lengths;  // [B], or null: every row has all steps
  const bool* resets;      // [B,T] or, time-major, [T,B]; or null: none

  // The time at which the forward pass's step `step` runs; backward runs the steps from the last.
  JP_HOST_DEVICE constexpr Int Time(Int step) const { return reverse ? steps - 1 - step : step; }
  JP_HOST_DEVICE constexpr Int Before(Int t) const { return reverse ? t + 1 : t - 1; }
  JP_HOST_DEVICE constexpr Int After(Int t) const { return reverse ? t - 1 : t + 1; }

  // Lengths beyond T count as T.
  JP_HOST_DEVICE constexpr Int Length(Int b) const {
    if (lengths == nullptr) return steps;
    const Int length = static_cast<Int>(lengths[b]);
    return length < steps ? length : steps;
  }
  JP_HOST_DEVICE constexpr bool Runs(Int b, Int t) const { return t >= 0 && t < Length(b); }
  // Whether t, at which the row runs, is its first step.
  JP_HOST_DEVICE constexpr bool IsFirst(Int b, Int t) const {
    return t == (reverse ? Length(b) - 1 : 0);
  }
  // Where (b, t) is in the arrays of sequences, in rows.
  JP_HOST_DEVICE constexpr int64_t Index(Int b, Int t) const {
    return time_major ? int64_t{t} * batch + b : int64_t{b} * steps + t;
  }
  // Whether the row runs at t and starts from the reset state there.
  JP_HOST_DEVICE constexpr bool IsReset(Int b, Int t) const {
    return resets != nullptr && Runs(b, t) && resets[Index(b, t)];
  }
};

}  // namespace jp
