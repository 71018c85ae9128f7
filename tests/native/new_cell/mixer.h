// SPDX-License-Identifier: Apache-2.0
// A cell that the product has not, as its file in native/cells would be:
//   u = sigmoid(input_u + recurrent_u), n = tanh(input_n + recurrent_n), h' = (1 - u) n + u h
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct Mixer {
  static constexpr int kGates = 2, kResiduals = 2, kStates = 1;
  static constexpr bool kResetAfter = false;
  static constexpr bool kReadsPreviousH = true, kReadsH = false;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* input_gates, const V* recurrent_gates, V* state,
                                     V* residuals) {
    const V u = Math::Sigmoid(input_gates[0] + recurrent_gates[0]);
    const V n = Math::Tanh(input_gates[1] + recurrent_gates[1]);
    state[0] = n + u * (state[0] - n);
    residuals[0] = u;
    residuals[1] = n;
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* residuals, const V* previous, const V& /*h*/,
                                      V* d_state, V* d_input_gates, V* /*d_recurrent_gates*/) {
    const V u = residuals[0], n = residuals[1], dh = d_state[0];
    d_input_gates[0] = dh * (previous[0] - n) * u * (1.0f - u);
    d_input_gates[1] = dh * (1.0f - u) * (1.0f - n * n);
    d_state[0] = dh * u;
  }
};

}  // namespace jp
