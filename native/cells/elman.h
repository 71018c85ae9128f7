// SPDX-License-Identifier: Apache-2.0
// h' = activation(input_gates + recurrent_gates)
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct TanhActivation {
  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static V Value(const V& x) {
    return Math::Tanh(x);
  }
  template <class Math, class V = typename Math::Value>  // in terms of the value
  JP_HOST_DEVICE static V Slope(const V& h) {
    return 1.0f - h * h;
  }
};

struct ReluActivation {
  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static V Value(const V& x) {
    return Math::Relu(x);
  }
  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static V Slope(const V& h) {
    return Math::Heaviside(h);
  }
};

template <class Activation>
struct Elman {
  static constexpr int kGates = 1, kResiduals = 0, kStates = 1;
  static constexpr bool kResetAfter = false;
  static constexpr bool kReadsPreviousH = false, kReadsH = true;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* input_gates, const V* recurrent_gates, V* state,
                                     V* /*residuals*/) {
    state[0] = Activation::template Value<Math>(input_gates[0] + recurrent_gates[0]);
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* /*residuals*/, const V* /*previous*/, const V& h,
                                      V* d_state, V* d_input_gates, V* /*d_recurrent_gates*/) {
    d_input_gates[0] = d_state[0] * Activation::template Slope<Math>(h);
    d_state[0] = V{};
  }
};

using ElmanTanh = Elman<TanhActivation>;
using ElmanRelu = Elman<ReluActivation>;

}  // namespace jp
