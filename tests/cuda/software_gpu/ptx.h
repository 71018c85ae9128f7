// SPDX-License-Identifier: Apache-2.0
// PTX, read into instructions that machine.h runs. It knows what NVRTC makes of this project's
// kernels, and refuses all else by name and line.
//
// A register is a column: one value for each lane of a warp. Columns of 32 bits hold predicates and
// 16-bit values, too; columns of 64 bits are numbered apart. A constant is a column that nothing
// writes, so that every operand is one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace jp::software_gpu {

enum class Type : uint8_t { kPred, kB8, kS8, kB16, kS16, kB32, kS32, kF32, kB64, kS64 };

constexpr int BytesOf(Type type) {
  switch (type) {
    case Type::kPred:
    case Type::kB8:
    case Type::kS8: return 1;
    case Type::kB16:
    case Type::kS16: return 2;
    case Type::kB32:
    case Type::kS32:
    case Type::kF32: return 4;
    case Type::kB64:
    case Type::kS64: return 8;
  }
  return 0;
}

enum class Op : uint8_t {
  kMov,
  kPack,
  kUnpack,
  kClock,
  kAdd,
  kSub,
  kMul,
  kMulHi,
  kMulWide,
  kMad,
  kMadWide,
  kDiv,
  kRem,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor,
  kNot,
  kNeg,
  kShl,
  kShr,
  kAbs,
  kFma,
  kFmaDown,
  kRcp,
  kSqrt,
  kExp2,
  kLog2,
  kCopysign,
  kSetp,
  kSelp,
  kBfi,
  kPrmt,
  kCvt,
  kCvtSat,
  kRound,
  kToDouble,
  kFromDouble,
  kMulDouble,
  kToBfloat16,
  kToFloat16,
  kToTf32,
  kFromFloat16,
  kFromBfloat16,
  kFromInt,
  kToInt,
  kToGenericShared,
  kFromGenericShared,
  kMapa,
  kLd,
  kSt,
  kRedAdd,
  kPrefetch,
  kFence,
  kBra,
  kRet,
  kAssertFail,
  kTrap,
  kShfl,
  kMma,
  kWarpSync,
  kActiveMask,
  kReverse,
  kLeadingZeros,
  kBarSync,
  kClusterArrive,
  kClusterWait,
  kMbarrierInit,
  kMbarrierExpect,
  kMbarrierTryWait,
  kStAsync,
};  // clang-format: a line a kind

enum class Compare : uint8_t {
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kEqu,
  kNeu,
  kLtu,
  kLeu,
  kGtu,
  kGeu,
  kNum,
  kNan,
};
enum class Rounding : uint8_t { kToEven, kToZero, kDown, kUp };
enum class Space : uint8_t { kGeneric, kGlobal, kShared, kParam, kLocal };
enum class Shuffle : uint8_t { kIdx, kBfly, kUp, kDown };
enum class Factors : uint8_t { kBfloat16, kFloat16, kTf32 };

inline constexpr uint32_t kNone = ~uint32_t{0};

struct Instruction {
  Op op{};
  Type type{}, from{};  // `from`: of what is converted
  Space space{};
  uint8_t kind = 0;      // Compare, Rounding, Shuffle or Factors
  uint8_t vector = 1;    // values of a load or a store
  bool strong = false;   // of a load: others write there meanwhile
  bool release = false;  // of a store, red or fence
  bool guard_negated = false;
  uint32_t guard = kNone;
  uint32_t target = 0;  // of a branch
  int64_t offset = 0;   // of an address
  uint32_t line = 0;
  uint32_t x[14] = {};  // columns: results first, then operands
};

struct Kernel {
  std::string name;
  size_t parameter_bytes = 0;
  size_t local_bytes = 0;  // of each lane
  int most_threads = 1024;
  uint32_t columns32 = 0, columns64 = 0;
  std::vector<std::pair<uint32_t, uint32_t>> constants32;  // column, value
  std::vector<std::pair<uint32_t, uint64_t>> constants64;
  // Columns of special registers, or kNone; those whose address is the parameters'.
  uint32_t tid = kNone, ctaid = kNone, ntid = kNone, nctaid = kNone, laneid = kNone;
  uint32_t parameters = kNone;
  std::vector<Instruction> code;
};

struct Module {
  std::string target;  // "sm_90a"
  std::map<std::string, Kernel> kernels;
  // Variables of .global, each in memory of its own.
  std::vector<std::pair<std::unique_ptr<unsigned char[]>, size_t>> globals;
};

// Throws std::invalid_argument: what is not understood, and where.
Module ParsePtx(const std::string& text);

}  // namespace jp::software_gpu
