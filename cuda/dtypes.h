// SPDX-License-Identifier: Apache-2.0
// The element types: what their bits mean, how a warp multiplies them, and how precisely a cell's
// functions are worked out for them.
#pragma once

#include "cuda/arch.h"

namespace jp::cuda {

// To about 1e-6: more than a 16-bit result can show.
struct QuickMath {
  using Value = float;
  JP_DEVICE static float Sigmoid(float x) {
    return arch::QuickDivide(1.0f, 1.0f + arch::QuickExp(-x));
  }
  // Near zero by its series, as the difference has no digits left there.
  JP_DEVICE static float Tanh(float x) {
    const float square = x * x;
    return square < 1e-3f ? x - x * square * (1.0f / 3) : 2.0f * Sigmoid(2.0f * x) - 1.0f;
  }
  JP_DEVICE static float Relu(float x) { return x < 0.0f ? 0.0f : x; }  // a NaN stays
  JP_DEVICE static float Heaviside(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};

struct PreciseMath : QuickMath {
  JP_DEVICE static float Sigmoid(float x) { return 1.0f / (1.0f + arch::Exp(-x)); }
  JP_DEVICE static float Tanh(float x) { return arch::Tanh(x); }
};

struct Bfloat16 {
  using Bits = uint16_t;
  using Math = QuickMath;
  static constexpr Precision kPrecision = Precision::kBfloat16;
  JP_DEVICE static float ToFloat(Bits bits) { return arch::FromBfloat16(bits); }
  JP_DEVICE static Bits FromFloat(float value) { return arch::RoundToBfloat16(value); }
  JP_DEVICE static uint32_t AsFactor(uint32_t word) { return word; }
};

struct Float16 {
  using Bits = uint16_t;
  using Math = QuickMath;
  static constexpr Precision kPrecision = Precision::kFloat16;
  JP_DEVICE static float ToFloat(Bits bits) { return arch::FromFloat16(bits); }
  JP_DEVICE static Bits FromFloat(float value) { return arch::RoundToFloat16(value); }
  JP_DEVICE static uint32_t AsFactor(uint32_t word) { return word; }
};

struct Float32 {
  using Bits = uint32_t;
  using Math = PreciseMath;
  static constexpr Precision kPrecision = Precision::kFloat32;
  JP_DEVICE static float ToFloat(Bits bits) { return arch::FloatOf(bits); }
  JP_DEVICE static Bits FromFloat(float value) { return arch::BitsOf(value); }
  JP_DEVICE static uint32_t AsFactor(uint32_t word) { return word; }
};

// Float32 arrays whose products are rounded to tf32.
struct Tf32 : Float32 {
  static constexpr Precision kPrecision = Precision::kTf32;
  JP_DEVICE static uint32_t AsFactor(uint32_t word) { return arch::RoundToTf32(word); }
};

template <class Dtype>
constexpr int kPerWord = 4 / sizeof(typename Dtype::Bits);
template <class Dtype>
constexpr int kPerVector = 16 / sizeof(typename Dtype::Bits);

// The bits that stand for "not written yet": a NaN. A result that is this very NaN is published as
// another one.
constexpr uint32_t kUnwritten = ~uint32_t{0};

template <class Bits>
JP_DEVICE Bits Publishable(Bits bits) {
  return bits == static_cast<Bits>(kUnwritten) ? static_cast<Bits>(bits >> 1) : bits;
}

}  // namespace jp::cuda
