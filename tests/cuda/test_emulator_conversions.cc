// SPDX-License-Identifier: Apache-2.0
// The emulator's conversions, against definitions and known bits.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "cuda/dtypes.h"
#include "tests/native/check.h"

namespace {

using namespace jp::cuda;

float Float(uint32_t bits) { return std::bit_cast<float>(bits); }

// What a float16's bits mean, by the format's definition.
double Float16Value(uint16_t bits) {
  const int sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

void CheckFloat16() {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = arch::FromFloat16(bits);
    if ((bits & 0x7fff) > 0x7c00) {
      CHECK(std::isnan(value), bits);
      CHECK(arch::RoundToFloat16(value) == 0x7fff, bits);
      continue;
    }
    CHECK(arch::RoundToFloat16(value) == bits, bits, arch::RoundToFloat16(value));
    if ((bits & 0x7fff) == 0x7c00) {
      CHECK(std::isinf(value) && std::signbit(value) == (bits >> 15), bits, value);
      continue;
    }
    CHECK(value == Float16Value(bits), bits, value);
    if ((bits & 0x7fff) == 0x7bff || bits >> 15) continue;
    // Halfway to the next number to the even one; a hair to either side to that side.
    const auto next = static_cast<uint16_t>(bits + 1);
    const auto middle = static_cast<float>((Float16Value(bits) + Float16Value(next)) / 2);
    const uint16_t even = bits & 1 ? next : bits;
    CHECK(arch::RoundToFloat16(middle) == even, bits, middle);
    CHECK(arch::RoundToFloat16(-middle) == (even | 0x8000), bits, middle);
    CHECK(arch::RoundToFloat16(std::nextafter(middle, 1e9f)) == next, bits, middle);
    CHECK(arch::RoundToFloat16(std::nextafter(middle, -1.0f)) == bits, bits, middle);
  }
  CHECK(arch::RoundToFloat16(65519.99f) == 0x7bff);
  CHECK(arch::RoundToFloat16(65520.0f) == 0x7c00);
  CHECK(arch::RoundToFloat16(-1e30f) == 0xfc00);
  CHECK(arch::RoundToFloat16(1e-40f) == 0);
}

void CheckBfloat16() {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = arch::FromBfloat16(bits);
    CHECK(arch::BitsOf(value) == i << 16, bits);
    if (std::isnan(value)) {
      CHECK(arch::RoundToBfloat16(value) == 0x7fff, bits);
      continue;
    }
    CHECK(arch::RoundToBfloat16(value) == bits, bits);
    if (std::isinf(value)) continue;
    const uint32_t middle = i << 16 | 0x8000;
    CHECK(arch::RoundToBfloat16(Float(middle)) == (i & 1 ? i + 1 : i), bits);
    CHECK(arch::RoundToBfloat16(Float(middle + 1)) == i + 1, bits);
    CHECK(arch::RoundToBfloat16(Float(middle - 1)) == i, bits);
  }
  // A NaN whose high half alone would be an infinity, and one that a carry would make a number.
  CHECK(arch::RoundToBfloat16(Float(0x7f800001)) == 0x7fff);
  CHECK(arch::RoundToBfloat16(Float(0xffffffff)) == 0x7fff);
}

void CheckTf32() {
  std::mt19937 random(5);
  for (int i = 0; i < 10000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random());
    if (!std::isfinite(Float(bits))) continue;
    const uint32_t below = bits & ~0x1fffu, up = below + 0x2000;
    CHECK(arch::RoundToTf32(bits) == ((bits & 0x1fff) >= 0x1000 ? up : below), bits);
    CHECK(arch::RoundToTf32(below) == below, bits);
  }
  CHECK(arch::RoundToTf32(0x3f801000) == 0x3f802000);  // a tie goes away from zero, not to even
  CHECK(arch::RoundToTf32(0xbf801000) == 0xbf802000);
  CHECK(arch::RoundToTf32(0x7f7fffff) == 0x7f800000);
  CHECK(arch::RoundToTf32(0xff800000) == 0xff800000);
  CHECK(std::isnan(Float(arch::RoundToTf32(0x7f800001))));
}

void CheckElementary() {
  for (float x = -9; x < 9; x += 0.37f) {
    CHECK(std::fabs(arch::Exp(x) / std::exp(double{x}) - 1) < 3e-7, x);
    CHECK(std::fabs(arch::QuickExp(x) / std::exp(double{x}) - 1) < 3e-6, x);
    CHECK(std::fabs(arch::Tanh(x) - std::tanh(double{x})) < 3e-7, x);
    CHECK(std::fabs(arch::QuickDivide(x, 3) - double{x} / 3) < 1e-6, x);
  }
  CHECK(std::isnan(arch::Tanh(std::numeric_limits<float>::quiet_NaN())));
}

// Large arguments come to the limits exactly: a unit that is saturated has no gradient.
template <class Math>
void CheckSaturation() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float x : {20.0f, 90.0f, 1e3f, 1e9f, 3e38f, infinity}) {
    CHECK(Math::Tanh(x) == 1 && Math::Tanh(-x) == -1, x, Math::Tanh(x), Math::Tanh(-x));
    CHECK(Math::Sigmoid(x) == 1, x, Math::Sigmoid(x));
    CHECK(Math::Sigmoid(-x) >= 0 && Math::Sigmoid(-x) < 3e-9f, x, Math::Sigmoid(-x));
  }
  CHECK(Math::Sigmoid(-infinity) == 0 && Math::Relu(infinity) == infinity);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(Math::Tanh(nan)) && std::isnan(Math::Sigmoid(nan)) &&
        std::isnan(Math::Relu(nan)));
}

}  // namespace

int main() {
  CheckFloat16();
  CheckBfloat16();
  CheckTf32();
  CheckElementary();
  CheckSaturation<QuickMath>();
  CheckSaturation<PreciseMath>();
  return jp::test::Finish("emulator: conversions");
}
