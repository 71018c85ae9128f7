// SPDX-License-Identifier: Apache-2.0
// The functions of native/programs/operations.def, of vectors; see forward.h for how it is
// included.
#pragma once

#include "native/cpu/simd.h"

namespace jp::cpu::JP_ISA {

// Functions that few steps use, lane by lane.
template <class F>
[[gnu::noinline]] static Vec EachLane(Vec x, const F& f) {
  float lanes[kLanes];
  Store(lanes, x);
  for (float& lane : lanes) lane = f(lane);
  return Load(lanes);
}

static inline Vec Ceiling(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_ceilf(lane); });
}
static inline Vec Cosine(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_cosf(lane); });
}
static inline Vec ErrorFunction(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_erff(lane); });
}
static inline Vec Exponential2(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_exp2f(lane); });
}
static inline Vec ExponentialMinus1(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_expm1f(lane); });
}
static inline Vec RoundedDown(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_floorf(lane); });
}
static inline Vec RoundedToEven(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_rintf(lane); });
}
static inline Vec RoundedAwayFromZero(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_roundf(lane); });
}
static inline Vec Sine(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_sinf(lane); });
}
static inline Vec Tangent(Vec x) {
  return EachLane(x, [](float lane) { return __builtin_tanf(lane); });
}

[[gnu::noinline]] static Vec Power(Vec x, Vec y) {
  float a[kLanes], b[kLanes];
  Store(a, x);
  Store(b, y);
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_powf(a[i], b[i]);
  return Load(a);
}

static inline Vec Truth(VecI mask) { return Select(mask, Broadcast(1.0f), Vec{}); }

static inline Vec Choose(Vec condition, Vec yes, Vec no) {
  return Select(condition != 0.0f, yes, no);
}
static inline Vec Magnitude(Vec x) { return (Vec)((VecU)x & 0x7fffffffu); }

static inline Vec SquareRoot(Vec x) {
  float lanes[kLanes];
  Store(lanes, x);
  for (int i = 0; i < kLanes; ++i) lanes[i] = __builtin_sqrtf(lanes[i]);
  return Load(lanes);
}

// exp(x) up to the largest float32, and 0 where it is below the least normal one.
static inline Vec Exponential(Vec x) {
  const VecI large = x > 88.0f;
  const Vec y = Exp(Select(large, x - 1.0f, x));
  return Select(x < -87.3f, Vec{}, Select(large, y * 2.71828183f, y));
}

// log(x) within 2 ulp (Cephes logf); minus infinity for 0, NaN below.
static inline Vec Logarithm(Vec x) {
  const VecI bits = (VecI)x;
  VecI exponent = (bits >> 23) - 126;
  Vec m = (Vec)((bits & 0x007fffff) | 0x3f000000);  // in 0.5..1
  const VecI small = m < 0.70710678f;
  exponent += small;  // true is -1
  m = Select(small, m + m, m) - 1.0f;
  const Vec e = __builtin_convertvector(exponent, Vec), z = m * m;
  Vec y = 7.0376836292e-2f * m - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * z + -2.12194440e-4f * e - 0.5f * z;
  const Vec normal = m + y + 0.693359375f * e;
  const Vec infinity = Broadcast(__builtin_inff());
  const Vec rest = Select(x < 0.0f, Broadcast(__builtin_nanf("")), -infinity);
  const Vec positive = Select(x < infinity, normal, x);  // a NaN stays one
  return Select((x >= 1.17549435e-38f) | (x != x), positive, rest);
}

// log(1 + x): the error of 1 + x is divided out (Kahan).
static inline Vec LogarithmOf1Plus(Vec x) {
  const Vec u = x + 1.0f, d = u - 1.0f;
  const VecI tiny = d == 0.0f;
  const Vec log = Logarithm(u);
  const Vec y = log * (x / Select(tiny, Broadcast(1.0f), d));
  return Select(tiny, x, Select(u < 1e30f, y, log));
}

// As XLA has them: a NaN on either side stays one.
static inline Vec Larger(Vec a, Vec b) { return Select((a > b) | (a != a), a, b); }
static inline Vec Smaller(Vec a, Vec b) { return Select((a < b) | (a != a), a, b); }

static inline Vec SignOf(Vec x) { return Select(x == x, Truth(x > Vec{}) - Truth(x < Vec{}), x); }

}  // namespace jp::cpu::JP_ISA
