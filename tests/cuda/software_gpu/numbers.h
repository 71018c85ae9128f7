// SPDX-License-Identifier: Apache-2.0
// Conversions between number types, written from their formats.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace jp::software_gpu {

inline float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t ToBits(float value) { return std::bit_cast<uint32_t>(value); }

// To nearest, ties to even. Any NaN becomes PTX's canonical one.
inline uint16_t ToBfloat16(float value) {
  const uint32_t bits = ToBits(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t ToFloat16(float value) {
  const uint32_t bits = ToBits(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return 0x7fff;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {  // a multiple of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  }
  const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}

inline float FromFloat16(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31, exponent = half >> 10 & 31;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 31) return FromBits(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  return FromBits(sign | (exponent + 112) << 23 | fraction << 13);
}

// To nearest, ties away from zero, in place.
inline uint32_t ToTf32(uint32_t bits) {
  const bool finite = (bits & 0x7f800000) != 0x7f800000;
  return finite ? (bits + 0x1000) & ~uint32_t{0x1fff} : bits;
}

}  // namespace jp::software_gpu
