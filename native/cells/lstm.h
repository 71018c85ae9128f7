// SPDX-License-Identifier: Apache-2.0
// i, f, g, o = input_gates + recurrent_gates
// c' = sigmoid(f) c + sigmoid(i) tanh(g)
// h' = sigmoid(o) tanh(c')
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct Lstm {
  static constexpr int kGates = 4, kResiduals = 5, kStates = 2;
  static constexpr bool kResetAfter = false;
  static constexpr bool kReadsPreviousH = false, kReadsH = false;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* input_gates, const V* recurrent_gates, V* state,
                                     V* residuals) {
    const V i = Math::Sigmoid(input_gates[0] + recurrent_gates[0]);
    const V f = Math::Sigmoid(input_gates[1] + recurrent_gates[1]);
    const V g = Math::Tanh(input_gates[2] + recurrent_gates[2]);
    const V o = Math::Sigmoid(input_gates[3] + recurrent_gates[3]);
    const V c = f * state[1] + i * g;
    state[0] = o * Math::Tanh(c);
    state[1] = c;
    residuals[0] = i;
    residuals[1] = f;
    residuals[2] = g;
    residuals[3] = o;
    residuals[4] = c;
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* residuals, const V* previous, const V& /*h*/,
                                      V* d_state, V* d_input_gates, V* /*d_recurrent_gates*/) {
    const V i = residuals[0], f = residuals[1], g = residuals[2], o = residuals[3];
    const V tanh_c = Math::Tanh(residuals[4]);
    const V dh = d_state[0];
    const V dc = d_state[1] + dh * o * (1.0f - tanh_c * tanh_c);
    d_input_gates[0] = dc * g * i * (1.0f - i);
    d_input_gates[1] = dc * previous[1] * f * (1.0f - f);
    d_input_gates[2] = dc * i * (1.0f - g * g);
    d_input_gates[3] = dh * tanh_c * o * (1.0f - o);
    d_state[0] = V{};
    d_state[1] = dc * f;
  }
};

}  // namespace jp
