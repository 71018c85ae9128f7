// SPDX-License-Identifier: Apache-2.0
// The narrow number formats, converted as the GPU does.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace jp::cuda::emulator {

constexpr uint16_t kNarrowNan = 0x7fff;  // the one NaN that conversions make, in both formats
constexpr uint32_t kInfinity = 0x7f800000;

// To nearest, ties to even.
inline uint16_t RoundToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > kInfinity) return kNarrowNan;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float FromBfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// To nearest, ties to even; 65520 and beyond to infinity.
inline uint16_t RoundToFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t rounded;
  if (magnitude > kInfinity) {
    return kNarrowNan;
  } else if (magnitude >= 0x477ff000) {
    rounded = 0x7c00;
  } else if (magnitude >= 0x38800000) {  // 2^-14, the least normal number
    rounded = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  } else {
    rounded = static_cast<uint32_t>(std::nearbyint(std::fabs(value) * 0x1p24f));
  }
  return static_cast<uint16_t>(sign | rounded);
}

inline float FromFloat16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 0) {
    return std::bit_cast<float>(sign |
                                std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f));
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

// To nearest, ties away from zero; the low 13 bits are zero then.
inline uint32_t RoundToTf32(uint32_t bits) {
  if ((bits & 0x7fffffff) > kInfinity) return 0x7fffffff;
  return (bits + 0x1000) & ~0x1fffu;
}

}  // namespace jp::cuda::emulator
