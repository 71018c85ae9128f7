// r, z = sigmoid(x_rz + product_rz)
// n = tanh(x_n + r product_n)
// h' = (1 - z) n + z h
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct Gru {
  static constexpr CellTraits kTraits = kCells[1];
  static constexpr int kGates = 3, kSaved = 4, kStates = 1;
  static constexpr bool kSeparateProduct = true;
  static constexpr bool kReadsPreviousH = true, kReadsH = false;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* x, const V* product, V* state, V* saved) {
    const V r = Math::Sigmoid(x[0] + product[0]);
    const V z = Math::Sigmoid(x[1] + product[1]);
    const V n = Math::Tanh(x[2] + r * product[2]);
    state[0] = n + z * (state[0] - n);
    saved[0] = r;
    saved[1] = z;
    saved[2] = n;
    saved[3] = product[2];
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* saved, const V* previous, const V& /*h*/, V* d_state,
                                      V* dx, V* d_product) {
    const V r = saved[0], z = saved[1], n = saved[2], product_n = saved[3];
    const V dh = d_state[0];
    const V dn = dh * (1.0f - z) * (1.0f - n * n);
    dx[0] = dn * product_n * r * (1.0f - r);
    dx[1] = dh * (previous[0] - n) * z * (1.0f - z);
    dx[2] = dn;
    d_product[0] = dx[0];
    d_product[1] = dx[1];
    d_product[2] = dn * r;
    d_state[0] = dh * z;
  }
};

}  // namespace jp
