// SPDX-License-Identifier: Apache-2.0
// One vector type, its loads and stores, and the functions cells are made of.
//
// Written once over the compiler's vector extensions. Each instruction set is one translation unit
// that defines JP_ISA (a namespace of its own, so that no two units share a symbol) and
// JP_VECTOR_BYTES before including this.
#pragma once

#include <cstdint>
#include <cstring>

#include "native/cpu/bfloat16.h"

#if !defined(JP_ISA) || !defined(JP_VECTOR_BYTES)
#error "define JP_ISA and JP_VECTOR_BYTES before including native/cpu/simd.h"
#endif

namespace jp::cpu::JP_ISA {

inline constexpr int kLanes = JP_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(JP_VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(JP_VECTOR_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(JP_VECTOR_BYTES)));
typedef uint16_t VecH __attribute__((vector_size(JP_VECTOR_BYTES / 2)));

// Minus zero, not plus: only x - 0 is x for every x, and compiles to nothing.
static inline Vec Broadcast(float x) { return x - Vec{}; }

static inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// A pair of bfloat16 values in each lane.
static inline VecU BroadcastPair(const bfloat16* pair) {
  uint32_t both;
  std::memcpy(&both, pair, sizeof both);
  return both - VecU{};
}

static inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

static inline Vec Load(const bfloat16* p) {
  VecH half;
  std::memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, VecU) << 16);
}

// Rounds to nearest even; a NaN stays a NaN.
static inline VecU RoundToBfloat16Bits(Vec v) {
  const VecU bits = (VecU)v;
  const VecU rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const VecU quiet = bits | 0x00400000u;
  return ((VecU)(v == v) & rounded) | ((VecU)(v != v) & quiet);
}

static inline void Store(bfloat16* p, Vec v) {
  const VecH half = __builtin_convertvector(RoundToBfloat16Bits(v) >> 16, VecH);
  std::memcpy(p, &half, sizeof half);
}

// v rounded to `T`.
template <class T>
static inline Vec RoundTo(Vec v) {
  if constexpr (sizeof(T) == 2) return (Vec)(RoundToBfloat16Bits(v) & 0xffff0000u);
  return v;
}

// Of a vector that begins with value `at` of so many, the lanes that hold one.
static inline int Lanes(int64_t values, int64_t at) {
  const int64_t left = values - at;
  return left >= kLanes ? kLanes : left > 0 ? static_cast<int>(left) : 0;
}

// The first n lanes, 1 <= n <= kLanes; the others read as zero and are not written.
template <class T>
static inline Vec LoadPart(const T* p, int n) {
  if (n == kLanes) return Load(p);
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, sizeof(T) * n);
  return Load(lanes);
}

template <class T>
static inline void StorePart(T* p, Vec v, int n) {
  if (n == kLanes) return Store(p, v);
  T lanes[kLanes];
  Store(lanes, v);
  std::memcpy(p, lanes, sizeof(T) * n);
}

// Rounds n values to bfloat16, which may begin where they do.
static inline void RoundValues(const float* from, bfloat16* to, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = Lanes(n, i);
    StorePart(to + i, LoadPart(from + i, lanes), lanes);
  }
}

// The lanes of a vector of units that hold units: all of them, which the compiler then knows, or
// the first n.
struct AllLanes {
  static constexpr bool kAll = true;
  template <class T>
  Vec Load(const T* p) const {
    return JP_ISA::Load(p);
  }
  template <class T>
  void Store(T* p, Vec v) const {
    JP_ISA::Store(p, v);
  }
};

struct SomeLanes {
  static constexpr bool kAll = false;
  int n;
  template <class T>
  Vec Load(const T* p) const {
    return LoadPart(p, n);
  }
  template <class T>
  void Store(T* p, Vec v) const {
    StorePart(p, v, n);
  }
};

static inline Vec Select(VecI mask, Vec yes, Vec no) {
  return (Vec)((mask & (VecI)yes) | (~mask & (VecI)no));
}

// The larger and the smaller of a bound and x; x if that is a NaN. By themselves compilers do not
// use the instructions that do just this.
#define JP_OF_BOUND(instruction, x, bound) \
  asm(instruction " %1, %2, %0" : "=v"(x) : "v"(x), "v"(bound))
static inline Vec AtLeast(Vec bound, Vec x) {
#if JP_VECTOR_BYTES == 64 ? defined(__AVX512F__) : JP_VECTOR_BYTES == 32 && defined(__AVX__)
  JP_OF_BOUND("vmaxps", x, bound);
  return x;
#else
  return Select(x < bound, bound, x);
#endif
}

static inline Vec AtMost(Vec bound, Vec x) {
#if JP_VECTOR_BYTES == 64 ? defined(__AVX512F__) : JP_VECTOR_BYTES == 32 && defined(__AVX__)
  JP_OF_BOUND("vminps", x, bound);
  return x;
#else
  return Select(x > bound, bound, x);
#endif
}
#undef JP_OF_BOUND

// a + x * y, in one instruction and in a's own register where there is such an instruction:
// otherwise compilers move accumulators about and read each weight from memory several times.
[[gnu::always_inline]] static inline Vec MulAdd(Vec a, Vec x, Vec y) {
#if JP_VECTOR_BYTES == 64 ? defined(__AVX512F__) : JP_VECTOR_BYTES == 32 && defined(__FMA__)
  asm("vfmadd231ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(y));
  return a;
#else
  return a + x * y;
#endif
}

// The upper half of each lane, the lower half zero. With few registers the mask stays in memory:
// otherwise compilers keep it in a register and spill an accumulator instead.
[[gnu::always_inline]] static inline VecU HighHalves(VecU v) {
#if JP_VECTOR_BYTES == 32 && defined(__AVX2__)
  alignas(32) static constexpr uint32_t kMask[] = {0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                   0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                   0xffff0000u, 0xffff0000u};
  asm("vpand %1, %0, %0" : "+x"(v) : "m"(kMask));
  return v;
#else
  return v & 0xffff0000u;
#endif
}

// sum + the products of each lane's two bfloat16 values: the upper ones' first, then the lower
// ones'. AVX512_BF16's instruction takes subnormal values for zero.
[[gnu::always_inline]] static inline Vec DotPairs(Vec sum, VecU x, VecU y) {
#if JP_VECTOR_BYTES == 64 && defined(__AVX512F__)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
#else
  sum = MulAdd(sum, (Vec)HighHalves(x), (Vec)HighHalves(y));
  return MulAdd(sum, (Vec)(x << 16), (Vec)(y << 16));
#endif
}

template <int... kLane>
struct LaneList {};
template <int kCount, int... kLane>
struct FirstLanes : FirstLanes<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct FirstLanes<0, kLane...> {
  using List = LaneList<kLane...>;
};

// a and b are a matrix of 2 x 2 blocks of kSize lanes: swaps the blocks off the diagonal.
template <int kSize, int... kLane>
[[gnu::always_inline]] static inline void SwapBlocks(Vec& a, Vec& b, LaneList<kLane...>) {
  const Vec top =
      __builtin_shufflevector(a, b, (kLane & kSize ? kLanes + kLane - kSize : kLane)...);
  b = __builtin_shufflevector(a, b, (kLane & kSize ? kLanes + kLane : kLane + kSize)...);
  a = top;
}

// Transposes kLanes rows of kLanes values.
template <int kSize = 1>
[[gnu::always_inline]] static inline void Transpose(Vec (&rows)[kLanes]) {
  if constexpr (kSize < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & kSize) == 0) {
        SwapBlocks<kSize>(rows[i], rows[i + kSize], FirstLanes<kLanes>::List{});
      }
    }
    Transpose<2 * kSize>(rows);
  }
}

// exp(x) within 2 ulp on [-87.3, 88.3]; infinity from 88.4 on, exp(-87.3) below; NaN for NaN.
static inline Vec Exp(Vec x) {
  const Vec low = Broadcast(-87.3f), high = Broadcast(89.0f);
  x = AtMost(high, AtLeast(low, x));
  const Vec magic = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // Cephes expf, in pairs of terms: a step waits for the length of this chain.
  const Vec r2 = r * r;
  const Vec high_terms = 1.9875691500e-4f * r + 1.3981999507e-3f;
  const Vec middle_terms = 8.3334519073e-3f * r + 4.1665795894e-2f;
  const Vec low_terms = 1.6666665459e-1f * r + 5.0000001201e-1f;
  const Vec y = (high_terms * r2 + middle_terms) * (r2 * r2) + (low_terms * r2 + (r + 1.0f));
  const VecI exponent = (VecI)shifted - (VecI)magic;
  return y * (Vec)((exponent + 127) << 23);
}

// Within 3 ulp above -88.3, and 0 from -88.4 on: float32 has it that 1 / (1 + exp(-x)) is.
static inline Vec Sigmoid(Vec x) { return 1.0f / (1.0f + Exp(-x)); }

// The first float32 whose tanh rounds to 1. The approximation below gives at least 1 there, in
// whichever way its multiplications and additions are fused.
inline constexpr float kTanhIsOne = 9.010913848876953f;

// Rational minimax approximation, odd over even (the one XLA and Eigen use), within 6 ulp. At most
// 1, and exactly 1 from kTanhIsOne on: saturated units have no gradient.
static inline Vec Tanh(Vec x) {
  const Vec limit = Broadcast(kTanhIsOne), one = Broadcast(1.0f);
  const Vec c = AtLeast(-limit, AtMost(limit, x));
  const Vec s = c * c;
  const Vec s2 = s * s, s4 = s2 * s2;
  const Vec p0 = 6.37261928875436e-04f * s + 4.89352455891786e-03f;
  const Vec p2 = 5.12229709037114e-08f * s + 1.48572235717979e-05f;
  const Vec p4 = 2.00018790482477e-13f * s + -8.60467152213735e-11f;
  const Vec p = (-2.76076847742355e-16f * s2 + p4) * s4 + (p2 * s2 + p0);
  const Vec q0 = 2.26843463243900e-03f * s + 4.89352518554385e-03f;
  const Vec q2 = 1.19825839466702e-06f * s + 1.18534705686654e-04f;
  const Vec q = q2 * s2 + q0;
  const Vec y = c * (p / q);  // c * p would lose the bits of a tiny c
  return AtLeast(-one, AtMost(one, y));
}

// What the cells call.
struct Math {
  using Value = Vec;
  static Vec Sigmoid(Vec x) { return JP_ISA::Sigmoid(x); }
  static Vec Tanh(Vec x) { return JP_ISA::Tanh(x); }
  static Vec Relu(Vec x) { return Select(x < Vec{}, Vec{}, x); }  // a NaN stays a NaN
  static Vec Heaviside(Vec x) { return Select(x > Vec{}, Broadcast(1.0f), Vec{}); }
};

}  // namespace jp::cpu::JP_ISA
