// SPDX-License-Identifier: Apache-2.0
// What each instruction of registers alone gives, all lanes at once.
#include "tests/cuda/software_gpu/arithmetic.h"

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>

#include "tests/cuda/software_gpu/numbers.h"

namespace jp::software_gpu {
namespace {

template <class T>
struct Stored {  // how a column holds a T
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static T From(Word word) {
    if constexpr (std::is_same_v<T, float>) {
      return FromBits(word);
    } else {
      return static_cast<T>(word);
    }
  }
  static Word To(T value) {
    if constexpr (std::is_same_v<T, float>) {
      return ToBits(value);
    } else if constexpr (sizeof(T) == 8) {
      return static_cast<uint64_t>(value);
    } else {
      return static_cast<uint32_t>(static_cast<std::make_unsigned_t<T>>(value));
    }
  }
};

// f with a value of the C++ type, for integers of 16 bits on, and floats.
template <class F>
void WithType(Type type, const F& f) {
  switch (type) {
    case Type::kPred:
    case Type::kB8: return f(uint8_t{});
    case Type::kS8: return f(int8_t{});
    case Type::kB16: return f(uint16_t{});
    case Type::kS16: return f(int16_t{});
    case Type::kB32: return f(uint32_t{});
    case Type::kS32: return f(int32_t{});
    case Type::kB64: return f(uint64_t{});
    case Type::kS64: return f(int64_t{});
    case Type::kF32: return f(float{});
  }
}

template <class T>
T Wrap(auto value) {
  return static_cast<T>(value);
}

// Rounded towards minus infinity; not inlined into code that assumes another rounding.
__attribute__((noinline)) float FmaDown(float a, float b, float c) {
  volatile float x = a, y = b, z = c;
  std::fesetround(FE_DOWNWARD);
  volatile float result = std::fma(x, y, z);
  std::fesetround(FE_TONEAREST);
  return result;
}

template <class Word>
Word* ColumnOf(Warp& warp, uint32_t column) {
  if constexpr (sizeof(Word) == 8) {
    return warp.Wide(column);
  } else {
    return warp.Words(column);
  }
}

template <class Word>
void Blend(Word* to, const Word* from, uint32_t mask) {
  if (mask == kAll) {
    std::memcpy(to, from, kLanes * sizeof(Word));
    return;
  }
  for (int l = 0; l < kLanes; ++l) {
    if (mask >> l & 1) to[l] = from[l];
  }
}

// to = f(operands...), whose columns are x[1], x[2], ...
template <class To, class... From, class F>
void Map(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
  using Word = typename Stored<To>::Word;
  Word result[kLanes];
  [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    const auto columns =
        std::make_tuple(ColumnOf<typename Stored<From>::Word>(warp, in.x[1 + kIndex])...);
    for (int l = 0; l < kLanes; ++l) {
      result[l] =
          Stored<To>::To(static_cast<To>(f(Stored<From>::From(std::get<kIndex>(columns)[l])...)));
    }
  }(std::index_sequence_for<From...>());
  Blend(ColumnOf<Word>(warp, in.x[0]), result, mask);
}

template <class F>
void Integers(Type type, const F& f) {
  WithType(type, [&](auto value) {
    if constexpr (std::is_integral_v<decltype(value)>) f(value);
  });
}

template <class F>
void Unary(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
  WithType(in.type, [&](auto v) {
    using T = decltype(v);
    Map<T, T>(warp, in, mask, [&](T a) { return f(a); });
  });
}
template <class F>
void Binary(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
  WithType(in.type, [&](auto v) {
    using T = decltype(v);
    Map<T, T, T>(warp, in, mask, [&](T a, T b) { return f(a, b); });
  });
}
template <class F>
void Bits(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
  Integers(in.type, [&](auto v) {
    using T = decltype(v);
    Map<T, T, T>(warp, in, mask, [&](T a, T b) { return static_cast<T>(f(a, b)); });
  });
}

float Rounded(const Instruction& in, float a) {
  switch (static_cast<Rounding>(in.kind)) {
    case Rounding::kToEven: return std::nearbyint(a);
    case Rounding::kToZero: return std::trunc(a);
    case Rounding::kDown: return std::floor(a);
    case Rounding::kUp: return std::ceil(a);
  }
  return a;
}

void SetPredicate(Warp& warp, const Instruction& in, uint32_t mask) {
  WithType(in.type, [&](auto v) {
    using T = decltype(v);
    const auto with = [&](const auto& f) { Map<uint8_t, T, T>(warp, in, mask, f); };
    switch (static_cast<Compare>(in.kind)) {
      case Compare::kEq: return with([](T a, T b) { return a == b; });
      case Compare::kLt: return with([](T a, T b) { return a < b; });
      case Compare::kLe: return with([](T a, T b) { return a <= b; });
      case Compare::kGt: return with([](T a, T b) { return a > b; });
      case Compare::kGe: return with([](T a, T b) { return a >= b; });
      // Of floats, ordered; a NaN is not "not equal" to anything.
      case Compare::kNe: return with([](T a, T b) { return a < b || a > b; });
      case Compare::kEqu: return with([](T a, T b) { return !(a < b || a > b); });
      case Compare::kNeu: return with([](T a, T b) { return !(a == b); });
      case Compare::kLtu: return with([](T a, T b) { return !(a >= b); });
      case Compare::kLeu: return with([](T a, T b) { return !(a > b); });
      case Compare::kGtu: return with([](T a, T b) { return !(a <= b); });
      case Compare::kGeu: return with([](T a, T b) { return !(a < b); });
      case Compare::kNum: return with([](T a, T b) { return a == a && b == b; });
      case Compare::kNan: return with([](T a, T b) { return a != a || b != b; });
    }
  });
}

}  // namespace

bool Compute(Warp& warp, const Instruction& in, uint32_t mask) {
  switch (in.op) {
    case Op::kMov:
      if (BytesOf(in.type) == 8) {
        Blend(warp.Wide(in.x[0]), warp.Wide(in.x[1]), mask);
      } else {
        Blend(warp.Words(in.x[0]), warp.Words(in.x[1]), mask);
      }
      return true;
    case Op::kPack:
      if (BytesOf(in.type) == 8) {
        Map<uint64_t, uint32_t, uint32_t>(
            warp, in, mask, [](uint32_t low, uint32_t high) { return low | uint64_t{high} << 32; });
      } else {
        Map<uint32_t, uint16_t, uint16_t>(
            warp, in, mask, [](uint16_t low, uint16_t high) { return low | uint32_t{high} << 16; });
      }
      return true;
    case Op::kUnpack:
      for (int l = 0; l < kLanes; ++l) {
        if (!(mask >> l & 1)) continue;
        const bool wide = BytesOf(in.type) == 8;
        const uint64_t word = wide ? warp.Wide(in.x[2])[l] : warp.Words(in.x[2])[l];
        for (int i = 0; i < 2; ++i) {
          if (in.x[i] == kNone) continue;
          warp.Words(in.x[i])[l] =
              wide ? static_cast<uint32_t>(word >> 32 * i) : static_cast<uint16_t>(word >> 16 * i);
        }
      }
      return true;
    case Op::kAdd:
      Binary(warp, in, mask, []<class T>(T a, T b) { return Wrap<T>(a + b); });
      return true;
    case Op::kSub:
      Binary(warp, in, mask, []<class T>(T a, T b) { return Wrap<T>(a - b); });
      return true;
    case Op::kMul:
      Binary(warp, in, mask, []<class T>(T a, T b) {
        if constexpr (std::is_integral_v<T>) {
          return Wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
        } else {
          return a * b;
        }
      });
      return true;
    case Op::kMulHi:
      Bits(warp, in, mask, []<class T>(T a, T b) {
        using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
        return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> 8 * sizeof(T));
      });
      return true;
    case Op::kMulWide:
      switch (in.type) {
        case Type::kS32:
          Map<int64_t, int32_t, int32_t>(warp, in, mask,
                                         [](int32_t a, int32_t b) { return int64_t{a} * b; });
          break;
        case Type::kB32:
          Map<uint64_t, uint32_t, uint32_t>(warp, in, mask,
                                            [](uint32_t a, uint32_t b) { return uint64_t{a} * b; });
          break;
        case Type::kS16:
          Map<int32_t, int16_t, int16_t>(warp, in, mask,
                                         [](int16_t a, int16_t b) { return int32_t{a} * b; });
          break;
        default:
          Map<uint32_t, uint16_t, uint16_t>(warp, in, mask,
                                            [](uint16_t a, uint16_t b) { return uint32_t{a} * b; });
      }
      return true;
    case Op::kMad:
      Integers(in.type, [&](auto v) {
        using T = decltype(v);
        Map<T, T, T, T>(warp, in, mask, [](T a, T b, T c) {
          return Wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) +
                         static_cast<uint64_t>(c));
        });
      });
      return true;
    case Op::kMadWide:
      if (in.type == Type::kS32) {
        Map<int64_t, int32_t, int32_t, int64_t>(
            warp, in, mask, [](int32_t a, int32_t b, int64_t c) {
              return static_cast<int64_t>(static_cast<uint64_t>(int64_t{a} * b) +
                                          static_cast<uint64_t>(c));
            });
      } else {
        Map<uint64_t, uint32_t, uint32_t, uint64_t>(
            warp, in, mask, [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t{a} * b + c; });
      }
      return true;
    case Op::kDiv:
      Binary(warp, in, mask, []<class T>(T a, T b) {
        if constexpr (std::is_integral_v<T>) {
          if (b == 0 || (std::is_signed_v<T> && b == static_cast<T>(-1))) {
            return b == 0 ? static_cast<T>(-1) : Wrap<T>(0 - static_cast<uint64_t>(a));
          }
        }
        return static_cast<T>(a / b);
      });
      return true;
    case Op::kRem:
      Bits(warp, in, mask, []<class T>(T a, T b) {
        if (b == 0 || (std::is_signed_v<T> && b == static_cast<T>(-1))) return b == 0 ? a : T{0};
        return static_cast<T>(a % b);
      });
      return true;
    case Op::kMin:
      Binary(warp, in, mask, []<class T>(T a, T b) {
        if constexpr (std::is_same_v<T, float>) return std::fmin(a, b);
        return std::min(a, b);
      });
      return true;
    case Op::kMax:
      Binary(warp, in, mask, []<class T>(T a, T b) {
        if constexpr (std::is_same_v<T, float>) return std::fmax(a, b);
        return std::max(a, b);
      });
      return true;
    case Op::kAnd: Bits(warp, in, mask, [](auto a, auto b) { return a & b; }); return true;
    case Op::kOr: Bits(warp, in, mask, [](auto a, auto b) { return a | b; }); return true;
    case Op::kXor: Bits(warp, in, mask, [](auto a, auto b) { return a ^ b; }); return true;
    case Op::kNot:
      Integers(in.type, [&](auto v) {
        using T = decltype(v);
        const bool is_predicate = in.type == Type::kPred;
        Map<T, T>(warp, in, mask, [=](T a) { return static_cast<T>(is_predicate ? !a : ~a); });
      });
      return true;
    case Op::kNeg: Unary(warp, in, mask, []<class T>(T a) { return Wrap<T>(-a); }); return true;
    case Op::kAbs:
      Unary(warp, in, mask, []<class T>(T a) {
        if constexpr (std::is_same_v<T, float>) return std::fabs(a);
        return a < T{0} ? Wrap<T>(-a) : a;
      });
      return true;
    case Op::kShl:
    case Op::kShr:
      Integers(in.type, [&](auto v) {
        using T = decltype(v);
        constexpr uint32_t kBits = 8 * sizeof(T);
        if (in.op == Op::kShl) {
          Map<T, T, uint32_t>(warp, in, mask, [](T a, uint32_t n) {
            return n >= kBits ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << n);
          });
        } else {
          Map<T, T, uint32_t>(warp, in, mask, [](T a, uint32_t n) {
            return static_cast<T>(n >= kBits ? (a < T{0} ? T(-1) : T{0}) : T(a >> n));
          });
        }
      });
      return true;
    case Op::kFma:
      Map<float, float, float, float>(warp, in, mask,
                                      [](float a, float b, float c) { return std::fma(a, b, c); });
      return true;
    case Op::kFmaDown: Map<float, float, float, float>(warp, in, mask, FmaDown); return true;
    case Op::kRcp: Map<float, float>(warp, in, mask, [](float a) { return 1 / a; }); return true;
    case Op::kSqrt:
      Map<float, float>(warp, in, mask, [](float a) { return std::sqrt(a); });
      return true;
    case Op::kExp2:
      Map<float, float>(warp, in, mask, [](float a) { return std::exp2(a); });
      return true;
    case Op::kLog2:
      Map<float, float>(warp, in, mask, [](float a) { return std::log2(a); });
      return true;
    case Op::kCopysign:  // the sign of the first
      Map<float, float, float>(warp, in, mask,
                               [](float a, float b) { return std::copysign(b, a); });
      return true;
    case Op::kSetp: SetPredicate(warp, in, mask); return true;
    case Op::kSelp:
      if (BytesOf(in.type) == 8) {
        Map<uint64_t, uint64_t, uint64_t, uint32_t>(
            warp, in, mask, [](uint64_t a, uint64_t b, uint32_t p) { return p ? a : b; });
      } else {
        Map<uint32_t, uint32_t, uint32_t, uint32_t>(
            warp, in, mask, [](uint32_t a, uint32_t b, uint32_t p) { return p ? a : b; });
      }
      return true;
    case Op::kActiveMask: {
      uint32_t active[kLanes];
      std::fill_n(active, kLanes, mask);
      Blend(warp.Words(in.x[0]), active, mask);
      return true;
    }
    case Op::kReverse:
      Map<uint32_t, uint32_t>(warp, in, mask, [](uint32_t a) {
        uint32_t reversed = 0;
        for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1) << (31 - i);
        return reversed;
      });
      return true;
    case Op::kLeadingZeros:  // bfind.shiftamt
      Map<uint32_t, uint32_t>(warp, in, mask, [](uint32_t a) {
        return a == 0 ? kAll : static_cast<uint32_t>(std::countl_zero(a));
      });
      return true;
    case Op::kBfi:
      Map<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>(
          warp, in, mask, [](uint32_t a, uint32_t b, uint32_t at, uint32_t bits) {
            const uint64_t field = bits >= 32 ? 0xffffffffu : (uint64_t{1} << bits) - 1;
            const uint64_t place = at >= 32 ? 0 : (field << at) & 0xffffffffu;
            const uint64_t moved = at >= 32 ? 0 : uint64_t{a} << at;
            return static_cast<uint32_t>((b & ~place) | (moved & place));
          });
      return true;
    case Op::kPrmt:
      Map<uint32_t, uint32_t, uint32_t, uint32_t>(
          warp, in, mask, [](uint32_t a, uint32_t b, uint32_t selector) {
            const uint64_t both = a | uint64_t{b} << 32;
            uint32_t result = 0;
            for (int i = 0; i < 4; ++i) {
              const uint32_t nibble = selector >> 4 * i & 15;
              uint32_t byte = static_cast<uint32_t>(both >> 8 * (nibble & 7)) & 0xff;
              if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
              result |= byte << 8 * i;
            }
            return result;
          });
      return true;
    case Op::kCvt:
      Integers(in.type, [&](auto to) {
        Integers(in.from, [&](auto from) {
          using To = decltype(to);
          using From = decltype(from);
          Map<To, From>(warp, in, mask, [](From a) { return static_cast<To>(a); });
        });
      });
      return true;
    case Op::kCvtSat:
      Map<float, float>(warp, in, mask, [](float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; });
      return true;
    case Op::kRound:
      Map<float, float>(warp, in, mask, [&in](float a) { return Rounded(in, a); });
      return true;
    case Op::kToDouble:
      Map<uint64_t, int64_t>(warp, in, mask, [](int64_t a) {
        return std::bit_cast<uint64_t>(static_cast<double>(a));
      });
      return true;
    case Op::kFromDouble:
      Map<float, uint64_t>(warp, in, mask,
                           [](uint64_t a) { return static_cast<float>(std::bit_cast<double>(a)); });
      return true;
    case Op::kMulDouble:
      Map<uint64_t, uint64_t, uint64_t>(warp, in, mask, [](uint64_t a, uint64_t b) {
        return std::bit_cast<uint64_t>(std::bit_cast<double>(a) * std::bit_cast<double>(b));
      });
      return true;
    case Op::kToBfloat16: Map<uint16_t, float>(warp, in, mask, ToBfloat16); return true;
    case Op::kToFloat16: Map<uint16_t, float>(warp, in, mask, ToFloat16); return true;
    case Op::kToTf32: Map<uint32_t, uint32_t>(warp, in, mask, ToTf32); return true;
    case Op::kFromFloat16: Map<float, uint16_t>(warp, in, mask, FromFloat16); return true;
    case Op::kFromBfloat16:
      Map<float, uint16_t>(warp, in, mask, [](uint16_t a) { return FromBits(uint32_t{a} << 16); });
      return true;
    case Op::kFromInt:
      Integers(in.from, [&](auto v) {
        using T = decltype(v);
        Map<float, T>(warp, in, mask, [](T a) { return static_cast<float>(a); });
      });
      return true;
    case Op::kToInt:
      Integers(in.type, [&](auto v) {
        using T = decltype(v);
        Map<T, float>(warp, in, mask, [&in](float a) {
          if (std::isnan(a)) return T{0};
          a = Rounded(in, a);
          const double least = static_cast<double>(std::numeric_limits<T>::min());
          const double most = static_cast<double>(std::numeric_limits<T>::max());
          if (a <= least) return std::numeric_limits<T>::min();
          return a >= most ? std::numeric_limits<T>::max() : static_cast<T>(a);
        });
      });
      return true;
    case Op::kToGenericShared: {
      const auto base = reinterpret_cast<uint64_t>(warp.block->shared());
      Map<uint64_t, uint64_t>(warp, in, mask, [=](uint64_t a) { return base + (a & 0xffffffff); });
      return true;
    }
    case Op::kFromGenericShared: {
      const auto base = reinterpret_cast<uint64_t>(warp.block->shared());
      Map<uint64_t, uint64_t>(warp, in, mask, [=](uint64_t a) { return a - base; });
      return true;
    }
    case Op::kMapa:
      Map<uint32_t, uint32_t, uint32_t>(warp, in, mask, [&](uint32_t a, uint32_t rank) {
        return (rank + 1) << kRankShift | (a & ((1u << kRankShift) - 1));
      });
      return true;
    default: return false;
  }
}

}  // namespace jp::software_gpu
