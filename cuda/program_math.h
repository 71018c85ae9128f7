// SPDX-License-Identifier: Apache-2.0
// The operations of native/programs/operations.def on a GPU, each a function of floats: Compute and
// the operation's name.
#pragma once

#include "cuda/dtypes.h"

namespace jp::cuda {

// What the expressions there call, besides what cells do.
JP_DEVICE float Truth(bool condition) { return condition ? 1.0f : 0.0f; }
JP_DEVICE float Choose(float condition, float yes, float no) {
  return condition != 0.0f ? yes : no;
}
// As XLA has them: a NaN on either side stays one.
JP_DEVICE float Larger(float a, float b) { return a > b || a != a ? a : b; }
JP_DEVICE float Smaller(float a, float b) { return a < b || a != a ? a : b; }
JP_DEVICE float SignOf(float x) { return x == x ? Truth(x > 0.0f) - Truth(x < 0.0f) : x; }
JP_DEVICE float Magnitude(float x) { return arch::FloatOf(arch::BitsOf(x) & 0x7fffffffu); }
JP_DEVICE float Power(float x, float y) { return arch::Pow(x, y); }
JP_DEVICE float Ceiling(float x) { return arch::Ceil(x); }
JP_DEVICE float RoundedDown(float x) { return arch::Floor(x); }
JP_DEVICE float RoundedToEven(float x) { return arch::RoundToEven(x); }
JP_DEVICE float RoundedAwayFromZero(float x) { return arch::RoundAwayFromZero(x); }
JP_DEVICE float Exponential(float x) { return arch::Exp(x); }
JP_DEVICE float Exponential2(float x) { return arch::Exp2(x); }
JP_DEVICE float ExponentialMinus1(float x) { return arch::Expm1(x); }
JP_DEVICE float Logarithm(float x) { return arch::Log(x); }
JP_DEVICE float LogarithmOf1Plus(float x) { return arch::Log1p(x); }
JP_DEVICE float ErrorFunction(float x) { return arch::Erf(x); }
JP_DEVICE float Sine(float x) { return arch::Sin(x); }
JP_DEVICE float Cosine(float x) { return arch::Cos(x); }
JP_DEVICE float Tangent(float x) { return arch::Tan(x); }
JP_DEVICE float SquareRoot(float x) { return arch::Sqrt(x); }

// `Math`: a Dtype's, as cells have it.
template <class Math>
struct ProgramMath {
  JP_DEVICE static float Sigmoid(float x) { return Math::Sigmoid(x); }
  JP_DEVICE static float Tanh(float x) { return Math::Tanh(x); }

#define JP_MOVE(name, registers, numbers)
#define JP_UNARY(name, expression) \
  JP_DEVICE static float Compute##name(float a) { return expression; }
#define JP_BINARY(name, expression) \
  JP_DEVICE static float Compute##name(float a, float b) { return expression; }
#define JP_TERNARY(name, expression) \
  JP_DEVICE static float Compute##name(float a, float b, float c) { return expression; }
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
};

}  // namespace jp::cuda
