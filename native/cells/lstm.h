// i, f, g, o = x + product
// c' = sigmoid(f) c + sigmoid(i) tanh(g)
// h' = sigmoid(o) tanh(c')
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct Lstm {
  static constexpr CellTraits kTraits = kCells[0];
  static constexpr int kGates = 4, kSaved = 5, kStates = 2;
  static constexpr bool kSeparateProduct = false;
  static constexpr bool kReadsPreviousH = false, kReadsH = false;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* x, const V* product, V* state, V* saved) {
    const V i = Math::Sigmoid(x[0] + product[0]);
    const V f = Math::Sigmoid(x[1] + product[1]);
    const V g = Math::Tanh(x[2] + product[2]);
    const V o = Math::Sigmoid(x[3] + product[3]);
    const V c = f * state[1] + i * g;
    state[0] = o * Math::Tanh(c);
    state[1] = c;
    saved[0] = i;
    saved[1] = f;
    saved[2] = g;
    saved[3] = o;
    saved[4] = c;
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* saved, const V* previous, const V& /*h*/, V* d_state,
                                      V* dx, V* /*d_product*/) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V tanh_c = Math::Tanh(saved[4]);
    const V dh = d_state[0];
    const V dc = d_state[1] + dh * o * (1.0f - tanh_c * tanh_c);
    dx[0] = dc * g * i * (1.0f - i);
    dx[1] = dc * previous[1] * f * (1.0f - f);
    dx[2] = dc * i * (1.0f - g * g);
    dx[3] = dh * tanh_c * o * (1.0f - o);
    d_state[0] = V{};
    d_state[1] = dc * f;
  }
};

}  // namespace jp
