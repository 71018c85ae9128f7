// SPDX-License-Identifier: Apache-2.0
// A step function as stages of products and vector operations; jax_persistent/programs/program.py
// makes it, and says what the stages, loops and instructions are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace jp {

enum class Operation {
#define JP_MOVE(name, registers, numbers) k##name,
#define JP_COMPUTE(name, expression) k##name,
#define JP_UNARY JP_COMPUTE
#define JP_BINARY JP_COMPUTE
#define JP_TERNARY JP_COMPUTE
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_COMPUTE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
};

// How many registers an operation reads, how many numbers it has besides, and whether it computes a
// value of registers alone; its name in operations.def.
struct OperationTraits {
  const char* name;
  int reads, numbers;
  bool computes;
};
inline constexpr OperationTraits kOperations[] = {
#define JP_MOVE(name, registers, numbers) {#name, registers, numbers, false},
#define JP_UNARY(name, expression) {#name, 1, 0, true},
#define JP_BINARY(name, expression) {#name, 2, 0, true},
#define JP_TERNARY(name, expression) {#name, 3, 0, true},
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
};
constexpr bool IsStore(Operation op) {
  return op == Operation::kStoreY || op == Operation::kStoreBuffer;
}
constexpr const OperationTraits& TraitsOf(Operation op) {
  return kOperations[static_cast<int>(op)];
}

enum class ValueType { kFloat32, kBfloat16, kBool };
enum class Reduction { kSum, kMax, kMin };

// A register of some units of some rows, one of some rows that is alike in all units, or a literal.
enum class RegisterKind { kUnits, kRows, kLiteral };
struct Register {
  RegisterKind kind;
  int index;
};

// `at` are registers: for instructions with a result that, then so many that are read; else those.
// `numbers` are what is left.
struct Instruction {
  Operation op;
  int reads;
  Register at[4];
  int64_t numbers[4];
};

// Element (k, u) of head n's matrix is at base + n head + k row + u column of a constant.
struct GateMatrix {
  int64_t operand, base, head, row, column;
};

// Head n's vector is k values of a buffer from offset + n k on; the heads share a loop's width.
struct ProgramSlice {
  int64_t buffer, offset, k, heads;
  bool rounds;  // the vector's values are bfloat16, and may be rounded to it
  std::vector<GateMatrix> gates;
};

struct ProgramLoop {
  int64_t width, registers, row_registers;
  std::vector<ProgramSlice> slices;
  std::vector<Instruction> code;
};

struct ProgramArray {
  int64_t features;
  ValueType type;
  bool has_groups = false, has_rows = false;  // of operands
  // Of an x that the call itself makes, of float32: from [T, G?, B?, depth], which is given in its
  // place, and a matrix [depth, features], or transposed, behind all operands. 0: it is given.
  int64_t depth = 0;
  bool is_transposed = false;
  // Of a constant that is a packed matrix, as problem/packed.h says; read by products alone.
  bool is_packed = false;
  int64_t columns = 0;  // of that
};

struct ProgramBuffer {
  int64_t width;
  bool is_carry;
};

// Legend: T steps, G groups, B rows of a group.
struct Program {
  // How many operands are made by the call.
  int64_t Products() const {
    return std::ranges::count_if(operands, [](const ProgramArray& x) { return x.depth > 0; });
  }

  // Constants [G?, B?, features], carries [G, B, features], xs [T, G?, B?, features].
  std::vector<ProgramArray> operands;
  // Of the carry as the operands are, then ys [T, G, B, features].
  std::vector<ProgramArray> ys;
  int64_t consts = 0, carries = 0;
  std::vector<ProgramBuffer> buffers;
  std::vector<std::vector<ProgramLoop>> stages;
  std::vector<float> literals;
  bool early = false;
  int64_t steps = 1, groups = 1, rows = 1;
  bool reverse = false;
  bool tf32 = false;         // float32 products may be rounded to it, where the hardware has it
  int64_t packed_lanes = 0;  // for vectors of so many its packed matrices are; 0: it has none
};

// Throws std::invalid_argument where the code is not what program.py makes. `layouts` has a number
// for each operand: 1 if it has groups, 2 if it has rows, 4 if it is a packed matrix, 8 if the
// matrix that it is made with is transposed, and 16 times the depth of that.
Program ParseProgram(std::span<const int64_t> code, std::span<const float> literals,
                     std::span<const int64_t> layouts, int64_t steps, int64_t groups, int64_t rows,
                     bool reverse, bool tf32 = false, int64_t packed_lanes = 0);

}  // namespace jp
