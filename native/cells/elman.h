// h' = activation(x + product)
#pragma once

#include "native/cells/cell.h"

namespace jp {

struct TanhActivation {
  static constexpr CellTraits kTraits = kCells[2];
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
  static constexpr CellTraits kTraits = kCells[3];
  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static V Value(const V& x) {
    return Math::Relu(x);
  }
  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static V Slope(const V& h) {
    return Math::Step(h);
  }
};

template <class Activation>
struct Elman {
  static constexpr CellTraits kTraits = Activation::kTraits;
  static constexpr int kGates = 1, kSaved = 0, kStates = 1;
  static constexpr bool kSeparateProduct = false;
  static constexpr bool kReadsPreviousH = false, kReadsH = true;

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Forward(const V* x, const V* product, V* state, V* /*saved*/) {
    state[0] = Activation::template Value<Math>(x[0] + product[0]);
  }

  template <class Math, class V = typename Math::Value>
  JP_HOST_DEVICE static void Backward(const V* /*saved*/, const V* /*previous*/, const V& h,
                                      V* d_state, V* dx, V* /*d_product*/) {
    dx[0] = d_state[0] * Activation::template Slope<Math>(h);
    d_state[0] = V{};
  }
};

using ElmanTanh = Elman<TanhActivation>;
using ElmanRelu = Elman<ReluActivation>;

}  // namespace jp
