// SPDX-License-Identifier: Apache-2.0
// Decodes programs, and refuses those that would read or write past an array.
#include "native/programs/program.h"

#include <array>
#include <iterator>
#include <stdexcept>

namespace jp {
namespace {

constexpr int64_t kRegistersOfAKind = 1 << 16, kMost = int64_t{1} << 40;

[[noreturn]] void Fail(const char* what) {
  throw std::invalid_argument(std::string("program: ") + what);
}

class Reader {
 public:
  explicit Reader(std::span<const int64_t> code) : code_(code) {}

  // The next number, in least..most.
  int64_t Next(int64_t least, int64_t most) {
    if (at_ == code_.size()) Fail("it ends early");
    const int64_t value = code_[at_++];
    if (value < least || value > most) Fail("a number is out of range");
    return value;
  }
  bool IsDone() const { return at_ == code_.size(); }

 private:
  std::span<const int64_t> code_;
  size_t at_ = 0;
};

int64_t Count(size_t size) { return static_cast<int64_t>(size); }

class Parser {
 public:
  Parser(std::span<const int64_t> code, Program& program) : from_(code), program_(program) {}

  void Parse(std::span<const int64_t> layouts) {
    Program& p = program_;
    p.operands.resize(from_.Next(1, 1 << 16));
    p.consts = from_.Next(0, Count(p.operands.size()));
    p.carries = from_.Next(1, Count(p.operands.size()) - p.consts);
    p.ys.resize(from_.Next(0, 1 << 16));
    if (layouts.size() != p.operands.size()) Fail("expected a layout for each operand");
    for (size_t i = 0; i < p.operands.size(); ++i) {
      p.operands[i] = NextArray();
      p.operands[i].has_groups = layouts[i] & 1;
      p.operands[i].has_rows = layouts[i] & 2;
      p.operands[i].is_packed = layouts[i] & 4;
      p.operands[i].is_transposed = layouts[i] & 8;
      p.operands[i].depth = layouts[i] >> 4;
      CheckProduct(p.operands[i], Count(i) >= p.consts + p.carries);
      if (p.operands[i].is_packed && (p.packed_lanes == 0 || Count(i) >= p.consts)) {
        Fail("no matrix is packed there");
      }
    }
    for (ProgramArray& y : p.ys) y = NextArray();
    p.buffers.resize(from_.Next(p.carries, 1 << 16));
    for (ProgramBuffer& buffer : p.buffers) {
      buffer.width = from_.Next(1, kMost);
      buffer.is_carry = from_.Next(0, 1) != 0;
    }
    for (int64_t i = 0; i < Count(p.buffers.size()); ++i) {
      if (p.buffers[i].is_carry != (i < p.carries)) Fail("the carry's buffers come first");
      if (i < p.carries && p.buffers[i].width != p.operands[p.consts + i].features) {
        Fail("a carry's buffer is not of its width");
      }
    }
    p.early = from_.Next(0, 1) != 0;
    p.stages.resize(from_.Next(1, 1 << 16));
    if (p.early && p.stages.size() < 2) Fail("its only stage can't be early");
    for (auto& stage : p.stages) {
      stage.resize(from_.Next(1, 1 << 16));
      for (ProgramLoop& loop : stage) ParseLoop(loop);
    }
    if (!from_.IsDone()) Fail("it goes on after its end");
    for (const ProgramArray& operand : p.operands) {
      if (operand.is_packed && operand.columns == 0) Fail("no product reads a packed matrix");
    }
  }

 private:
  ProgramArray NextArray() {
    const int64_t features = from_.Next(1, kMost);
    return {features, static_cast<ValueType>(from_.Next(0, 2))};
  }

  static void CheckProduct(const ProgramArray& array, bool is_x) {
    if (array.depth == 0 && !array.is_transposed) return;
    if (!is_x || array.type != ValueType::kFloat32) Fail("no product is made there");
    if (array.depth < 2 || array.depth > kMost || array.depth % 2 != 0) {
      Fail("expected a product of an even depth");
    }
  }

  void ParseLoop(ProgramLoop& loop) {
    loop.width = from_.Next(1, kMost);
    loop.registers = from_.Next(0, kRegistersOfAKind);
    loop.row_registers = from_.Next(0, kRegistersOfAKind);
    loop.slices.resize(from_.Next(0, 1 << 16));
    for (ProgramSlice& slice : loop.slices) ParseSlice(slice, loop.width);
    loop.code.resize(from_.Next(1, 1 << 20));
    written_ = {std::vector<bool>(loop.registers), std::vector<bool>(loop.row_registers)};
    for (Instruction& instruction : loop.code) ParseInstruction(instruction, loop);
  }

  void ParseSlice(ProgramSlice& slice, int64_t width) {
    slice.buffer = from_.Next(0, Count(program_.buffers.size()) - 1);
    slice.offset = from_.Next(0, kMost);
    slice.k = from_.Next(1, kMost);
    slice.heads = from_.Next(1, width);
    slice.rounds = from_.Next(0, 1) != 0;
    if (width % slice.heads != 0) Fail("heads of different widths");
    const int64_t units = width / slice.heads, whole = program_.buffers[slice.buffer].width;
    if (slice.k > whole / slice.heads) Fail("a product reads past its buffer");
    const int64_t end = slice.offset + slice.k * slice.heads;
    if (end > whole) Fail("a product reads past its buffer");
    // Of an odd number of features the next one is read, too, times zero.
    if (slice.k % 2 != 0 && (end != whole || slice.heads > 1)) {
      Fail("an odd product within a buffer");
    }
    slice.gates.resize(from_.Next(1, 1 << 16));
    for (GateMatrix& gate : slice.gates) {
      gate.operand = from_.Next(0, program_.consts - 1);
      gate.base = from_.Next(0, kMost);
      gate.head = from_.Next(1, kMost);
      gate.row = from_.Next(1, kMost);
      gate.column = from_.Next(1, kMost);
      const ProgramArray& matrix = program_.operands[gate.operand];
      if (gate.row != 1 && gate.column != 1 && units > 1) Fail("a matrix without contiguous axis");
      if (matrix.has_rows) Fail("a matrix for each row");
      if (matrix.type == ValueType::kBool) Fail("a matrix of booleans");
      if (matrix.type != program_.operands[slice.gates[0].operand].type) {
        Fail("matrices of two types side by side");
      }
      const int64_t last = gate.base + (slice.heads - 1) * gate.head + (slice.k - 1) * gate.row +
                           (units - 1) * gate.column;
      if (last >= matrix.features) {
        Fail("a product reads past its matrix");
      }
      CheckPacked(slice, gate, units);
    }
  }

  // All gates of a slice are columns of one packed matrix, or none is.
  void CheckPacked(const ProgramSlice& slice, const GateMatrix& gate, int64_t units) {
    ProgramArray& matrix = program_.operands[gate.operand];
    if (gate.operand != slice.gates[0].operand &&
        (matrix.is_packed || program_.operands[slice.gates[0].operand].is_packed)) {
      Fail("a packed matrix beside another");
    }
    if (!matrix.is_packed) return;
    const int64_t columns = matrix.features / slice.k;
    const bool whole = columns * slice.k == matrix.features && slice.heads == 1 &&
                       gate.column == 1 && (gate.row == columns || slice.k == 1);
    if (!whole || gate.base > columns - units) Fail("a part of a packed matrix's rows");
    if (matrix.columns != 0 && matrix.columns != columns) Fail("a packed matrix of two shapes");
    matrix.columns = columns;
  }

  Register NextRegister(int64_t code, const ProgramLoop& loop) {
    const auto kind = static_cast<RegisterKind>(code / kRegistersOfAKind);
    const int64_t index = code % kRegistersOfAKind;
    const int64_t most[] = {loop.registers, loop.row_registers, Count(program_.literals.size())};
    if (code < 0 || code >= 3 * kRegistersOfAKind || index >= most[static_cast<int>(kind)]) {
      Fail("there is no such register");
    }
    return {kind, static_cast<int>(index)};
  }

  void ParseInstruction(Instruction& instruction, const ProgramLoop& loop) {
    instruction = {};
    instruction.op = static_cast<Operation>(from_.Next(0, std::ssize(kOperations) - 1));
    int64_t rest[5];
    for (int64_t& number : rest) number = from_.Next(0, kMost);
    const int64_t* next = rest;
    const bool has_result = !IsStore(instruction.op);
    const OperationTraits& traits = TraitsOf(instruction.op);
    instruction.reads = traits.reads;
    const int registers = traits.reads + has_result;
    for (int i = 0; i < registers; ++i) instruction.at[i] = NextRegister(*next++, loop);
    for (int i = 0; i < traits.numbers; ++i) instruction.numbers[i] = *next++;
    for (int i = has_result; i < registers; ++i) {
      const Register& read = instruction.at[i];
      if (read.kind != RegisterKind::kLiteral && !Written(read)) {
        Fail("a register is read before it is written");
      }
    }
    if (has_result) {
      CheckKinds(instruction, registers);
      Written(instruction.at[0]) = true;
    }
    CheckPlace(instruction, loop);
  }

  std::vector<bool>::reference Written(const Register& of) {
    return written_[of.kind == RegisterKind::kRows][of.index];
  }

  // A result alike in all units is made of such operands only.
  static void CheckKinds(const Instruction& instruction, int registers) {
    if (instruction.at[0].kind == RegisterKind::kLiteral) Fail("a literal is assigned");
    if (instruction.at[0].kind == RegisterKind::kUnits) return;
    for (int i = 1; i < registers; ++i) {
      if (instruction.at[i].kind == RegisterKind::kUnits) Fail("units in place of a row's value");
    }
  }

  // A worker of a loop has products of its own units, and stores them.
  static bool IsOfItsUnits(Operation op) { return IsStore(op) || op == Operation::kLoadProduct; }

  void CheckPlace(const Instruction& instruction, const ProgramLoop& loop) const {
    const int64_t n = instruction.numbers[0], offset = instruction.numbers[1];
    const bool of_units = instruction.at[0].kind == RegisterKind::kUnits;
    const int64_t end = offset + (of_units ? loop.width : 1);
    if (!of_units && loop.width > 1 && IsOfItsUnits(instruction.op)) {
      Fail("a row's value in place of units");
    }
    const auto check = [&](int64_t count, const auto& width) {
      if (n >= count || end > width(n)) Fail("an instruction reaches past an array");
    };
    switch (instruction.op) {
      case Operation::kLoadOperand:
        check(Count(program_.operands.size()),
              [&](int64_t i) { return program_.operands[i].features; });
        if (n >= program_.consts && n < program_.consts + program_.carries) {
          Fail("the carry is in a buffer");
        }
        if (program_.operands[n].is_packed) Fail("a value of a packed matrix");
        break;
      case Operation::kLoadBuffer:
      case Operation::kStoreBuffer:
        check(Count(program_.buffers.size()), [&](int64_t i) { return program_.buffers[i].width; });
        break;
      case Operation::kStoreY:
        check(Count(program_.ys.size()), [&](int64_t i) { return program_.ys[i].features; });
        break;
      case Operation::kReduce:
        if (n >= Count(program_.buffers.size()) || instruction.numbers[2] < 1 ||
            offset + instruction.numbers[2] > program_.buffers[n].width ||
            instruction.numbers[3] > static_cast<int64_t>(Reduction::kMin) || of_units) {
          Fail("a reduction reaches past its buffer");
        }
        break;
      case Operation::kLoadProduct:
        if (n >= Count(loop.slices.size()) || offset >= Count(loop.slices[n].gates.size())) {
          Fail("there is no such product");
        }
        break;
      default: break;
    }
  }

  Reader from_;
  Program& program_;
  std::array<std::vector<bool>, 2> written_;  // the registers of units and of rows, of a loop
};

}  // namespace

Program ParseProgram(std::span<const int64_t> code, std::span<const float> literals,
                     std::span<const int64_t> layouts, int64_t steps, int64_t groups, int64_t rows,
                     bool reverse, bool tf32, int64_t packed_lanes) {
  Program program;
  program.literals.assign(literals.begin(), literals.end());
  program.steps = steps;
  program.groups = groups;
  program.rows = rows;
  program.reverse = reverse;
  program.tf32 = tf32;
  program.packed_lanes = packed_lanes;
  if (packed_lanes < 0 || packed_lanes > 1024) Fail("packed for no vectors");
  if (steps < 1 || groups < 1 || rows < 1) Fail("it has no steps or no rows");
  Parser(code, program).Parse(layouts);
  return program;
}

}  // namespace jp
