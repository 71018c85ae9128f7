// SPDX-License-Identifier: Apache-2.0
// The functions that cells are made of, over the whole range of float, against double. Built once
// for each instruction set, with its flags.
#include "native/cpu/simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "tests/native/check.h"

namespace {

namespace simd = jp::cpu::JP_ISA;
using jp::cpu::bfloat16;
using simd::kLanes;
using simd::Vec;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::min();
constexpr float kDenormal = std::numeric_limits<float>::denorm_min();

template <class Function>
float At(Function function, float x) {
  return function(simd::Broadcast(x))[kLanes - 1];
}

// |got - expected| in units of the last place of `expected`.
double Ulps(float got, double expected) {
  const float near = static_cast<float>(std::fabs(expected));
  const double ulp = near < kTiny ? kDenormal : std::nextafter(near, kInfinity) - near;
  return std::fabs(got - expected) / ulp;
}

// Calls f with every `stride`th finite float, of both signs: as many of each power of two.
template <class F>
void ForFloats(uint32_t stride, F f) {
  const uint32_t last = std::bit_cast<uint32_t>(std::numeric_limits<float>::max());
  for (uint64_t bits = 0; bits <= last; bits += stride) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    f(x);
    f(-x);
  }
}

// The largest error in ulps over [low, high].
template <class Function, class Exact>
double WorstUlps(Function function, Exact exact, float low, float high) {
  double worst = 0;
  ForFloats(1499, [&](float x) {
    if (x >= low && x <= high) {
      worst = std::max(worst, Ulps(At(function, x), exact(x)));
    }
  });
  return worst;
}

double ExactSigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void TestExp() {
  const double worst = WorstUlps(simd::Exp, [](double x) { return std::exp(x); }, -87.3f, 88.3f);
  CHECK(worst <= 2, worst);
  CHECK(At(simd::Exp, 0.0f) == 1.0f);
  CHECK(At(simd::Exp, kDenormal) == 1.0f && At(simd::Exp, -kDenormal) == 1.0f);
  CHECK(At(simd::Exp, 1e30f) == kInfinity && At(simd::Exp, kInfinity) == kInfinity);
  CHECK(At(simd::Exp, -1e30f) == At(simd::Exp, -87.3f));
  CHECK(At(simd::Exp, -kInfinity) == At(simd::Exp, -87.3f));
  CHECK(std::isnan(At(simd::Exp, kNan)));
  std::cout << "exp: " << worst << " ulp\n";
}

void TestSigmoid() {
  const double worst = WorstUlps(simd::Sigmoid, ExactSigmoid, -87.3f, kInfinity);
  CHECK(worst <= 3, worst);
  ForFloats(100003, [](float x) {
    const float got = At(simd::Sigmoid, x);
    CHECK(got >= 0 && got <= 1, x, got);
    CHECK(std::fabs(got - ExactSigmoid(x)) < 2e-7, x, got);
  });
  CHECK(At(simd::Sigmoid, 0.0f) == 0.5f);
  CHECK(At(simd::Sigmoid, 17.4f) == 1.0f && At(simd::Sigmoid, kInfinity) == 1.0f);
  CHECK(At(simd::Sigmoid, -88.5f) == 0.0f && At(simd::Sigmoid, -kInfinity) == 0.0f);
  CHECK(std::isnan(At(simd::Sigmoid, kNan)));
  std::cout << "sigmoid: " << worst << " ulp\n";
}

void TestTanh() {
  const auto exact = [](double x) { return std::tanh(x); };
  const double worst = WorstUlps(simd::Tanh, exact, -kInfinity, kInfinity);
  CHECK(worst <= 6, worst);
  ForFloats(100003, [](float x) {
    const float got = At(simd::Tanh, x);
    CHECK(got >= -1 && got <= 1, x, got);
    CHECK(At(simd::Tanh, -x) == -got, x, got);
  });
  CHECK(At(simd::Tanh, 0.0f) == 0.0f);
  // Saturated where float32 is: 1 - tanh(x)^2 is 0 from here on, whatever multiplies it later.
  CHECK(static_cast<float>(std::tanh(double{simd::kTanhIsOne})) == 1.0f);
  CHECK(static_cast<float>(std::tanh(double{std::nextafter(simd::kTanhIsOne, 0.0f)})) < 1.0f);
  for (float x : {simd::kTanhIsOne, 10.0f, 20.0f, 1e6f, kInfinity}) {
    CHECK(At(simd::Tanh, x) == 1.0f && At(simd::Tanh, -x) == -1.0f, x, At(simd::Tanh, x));
  }
  // And not long before: not where one step of float32 less than 1 is a better answer by far.
  CHECK(At(simd::Tanh, 7.9f) < 1.0f && At(simd::Tanh, 8.2f) < 1.0f);
  CHECK(std::isnan(At(simd::Tanh, kNan)));
  std::cout << "tanh: " << worst << " ulp\n";
}

void TestReluAndStep() {
  const auto relu = [](Vec x) { return simd::Math::Relu(x); };
  const auto step = [](Vec x) { return simd::Math::Heaviside(x); };
  ForFloats(10000019, [&](float x) {
    CHECK(At(relu, x) == std::max(x, 0.0f), x);
    CHECK(At(step, x) == (x > 0 ? 1.0f : 0.0f), x);
  });
  CHECK(std::isnan(At(relu, kNan)));
  CHECK(At(relu, kInfinity) == kInfinity && At(relu, -kInfinity) == 0.0f);
}

// The nearest bfloat16, ties to even, by trying both neighbours.
uint16_t Nearest(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t down = static_cast<uint16_t>(bits >> 16);
  const uint32_t rest = bits & 0xffff;
  return static_cast<uint16_t>(down + (rest > 0x8000 || (rest == 0x8000 && (down & 1))));
}

void TestBfloat16() {
  const auto round = [](float x) {
    bfloat16 lanes[kLanes];
    simd::Store(lanes, simd::Broadcast(x));
    return lanes[kLanes - 1].bits;
  };
  ForFloats(9973, [&](float x) {
    CHECK(round(x) == Nearest(x), x, round(x), Nearest(x));
    const float kept = At([](Vec v) { return simd::RoundTo<bfloat16>(v); }, x);
    CHECK(std::bit_cast<uint32_t>(kept) == uint32_t{Nearest(x)} << 16, x, kept);
  });
  for (float x : {kInfinity, -kInfinity, 0.0f, -0.0f}) {
    CHECK(round(x) == Nearest(x), x);
  }
  CHECK(round(1.00390625f) == 0x3f80 && round(1.01171875f) == 0x3f82);  // ties to even
  for (uint32_t bits : {0x7fc00000u, 0x7f800001u, 0xffffffffu, 0x7fffffffu}) {
    const uint16_t kept = round(std::bit_cast<float>(bits));
    CHECK((kept & 0x7f80) == 0x7f80 && (kept & 0x7f) != 0, bits, kept);
  }
  bfloat16 pattern[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    pattern[lane].bits = static_cast<uint16_t>(0x3f80 + lane);
  }
  const Vec loaded = simd::Load(pattern);
  for (int lane = 0; lane < kLanes; ++lane) {
    CHECK(std::bit_cast<uint32_t>(loaded[lane]) == (0x3f80u + lane) << 16, lane);
  }
}

template <class T>
void CheckParts(T one, T guard) {
  for (int n = 1; n <= kLanes; ++n) {
    T from[kLanes], to[kLanes + 1];
    std::fill(from, from + n, one);
    std::fill(from + n, from + kLanes, guard);
    std::fill(to, to + kLanes + 1, guard);
    const Vec loaded = simd::LoadPart(from, n);
    for (int lane = 0; lane < kLanes; ++lane) {
      CHECK(loaded[lane] == (lane < n ? 1.0f : 0.0f), n);
    }
    simd::StorePart(to, loaded, n);
    for (int lane = 0; lane <= kLanes; ++lane) {
      const bool as_expected = std::memcmp(&to[lane], lane < n ? &one : &guard, sizeof(T)) == 0;
      CHECK(as_expected, n, lane);
    }
  }
}

bool RunsHere() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

}  // namespace

int main() {
  constexpr int kSkipped = 77;
  if (!RunsHere()) {
    return kSkipped;
  }
  TestExp();
  TestSigmoid();
  TestTanh();
  TestReluAndStep();
  TestBfloat16();
  CheckParts<float>(1.0f, 7.0f);
  CheckParts<bfloat16>({0x3f80}, {0x1234});
  return jp::test::Finish("simd");
}
