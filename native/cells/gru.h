// SPDX-License-Identifier: Apache-2.0
// r, z = sigmoid(input_rz + recurrent_rz)
// n = tanh(input_n + r recurrent_n)
// h' = (1 - z) n + z h
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct Gru {
  static constexpr int kGates = 3, kResiduals = 4, kStates = 1;
  static constexpr bool kResetAfter = true;
  static constexpr bool kReadsPreviousH = true, kReadsH = false;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* input_gates, const V* recurrent_gates, V* state,
                                     V* residuals) {
    const V r = Math::Sigmoid(input_gates[0] + recurrent_gates[0]);
    const V z = Math::Sigmoid(input_gates[1] + recurrent_gates[1]);
    const V n = Math::Tanh(input_gates[2] + r * recurrent_gates[2]);
    state[0] = n + z * (state[0] - n);
    residuals[0] = r;
    residuals[1] = z;
    residuals[2] = n;
    residuals[3] = recurrent_gates[2];
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* residuals, const V* previous, const V& /*h*/,
                                      V* d_state, V* d_input_gates, V* d_recurrent_gates) {
    const V r = residuals[0], z = residuals[1], n = residuals[2], recurrent_n = residuals[3];
    const V dh = d_state[0];
    const V dn = dh * (1.0f - z) * (1.0f - n * n);
    d_input_gates[0] = dn * recurrent_n * r * (1.0f - r);
    d_input_gates[1] = dh * (previous[0] - n) * z * (1.0f - z);
    d_input_gates[2] = dn;
    d_recurrent_gates[0] = d_input_gates[0];
    d_recurrent_gates[1] = d_input_gates[1];
    d_recurrent_gates[2] = dn * r;
    d_state[0] = dh * z;
  }
};

}  // namespace jp
