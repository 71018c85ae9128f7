// SPDX-License-Identifier: Apache-2.0
// Runs a stage's instructions, in one instruction set; see forward.h for how it is included.
//
// An instruction works on a block: up to kBlockVectors vectors, some units of some rows. A register
// has the block's vectors one row after the other; one that is alike in all units has a vector for
// each row. So an instruction is looked at once for hundreds of values.
#pragma once

#include "native/cpu/gemm.h"
#include "native/cpu/program_math.h"
#include "native/cpu/program_worker.h"

namespace jp::cpu::JP_ISA {

class ProgramBlocks : public ProgramWorker {
 protected:
  using ProgramWorker::ProgramWorker;

  struct Block {
    int64_t step, t;
    int64_t row, rows;
    int64_t unit, units;  // in vectors
    int64_t first;        // of the worker's units
  };

  // Asks for what a block reads of xs and writes of ys: no cache has it.
  void PrefetchBlock(const ProgramLoop& loop, const Block& block) const {
    for (const Instruction& instruction : loop.code) {
      const int64_t n = instruction.numbers[0];
      if (instruction.op == Operation::kStoreY) {
        ProgramArray array = program_.ys[n];
        array.has_groups = array.has_rows = true;
        PrefetchBlock<true>(array, call_.results[program_.carries + n], instruction, block);
      } else if (instruction.op == Operation::kLoadOperand && n >= program_.consts) {
        PrefetchBlock<false>(program_.operands[n], call_.operands[n], instruction, block);
      }
    }
  }

  template <bool kWrite>
  void PrefetchBlock(const ProgramArray& array, const void* at, const Instruction& instruction,
                     const Block& block) const {
    const int64_t size = array.type == ValueType::kFloat32    ? sizeof(float)
                         : array.type == ValueType::kBfloat16 ? sizeof(bfloat16)
                                                              : 1;
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t from =
          Place(array, block.t, block.row + r) + instruction.numbers[1] + block.unit * kLanes;
      Prefetch<kWrite>(static_cast<const char*>(at) + from * size, block.units * kLanes * size);
    }
  }

  // A register's vectors: from a row to the next, and from a vector of units to the next, floats.
  struct Operand {
    float* at;
    int64_t row, unit;
    Vec Get(int64_t r, int64_t u) const { return Load(at + r * row + u * unit); }
    void Set(int64_t r, int64_t u, Vec v) const { Store(at + r * row + u * unit, v); }
  };

  Operand At(const ProgramLoop& loop, const Register& of, int64_t units) const {
    constexpr int64_t kSize = kBlockVectors * kLanes;
    float* registers = Memory<float>(plan_.registers) + worker_ * plan_.register_floats;
    switch (of.kind) {
      case RegisterKind::kUnits: return {registers + of.index * kSize, units * kLanes, kLanes};
      case RegisterKind::kRows: return {registers + (loop.registers + of.index) * kSize, kLanes, 0};
      case RegisterKind::kLiteral: break;
    }
    return {Memory<float>(plan_.literals) + of.index * kLanes, 0, 0};
  }

  // A register that is read along with others: from one vector to the next.
  struct Run {
    const float* at;
    int64_t step;
    Vec Next(int64_t i) const { return Load(at + i * step); }
  };
  static Run RunOf(const Operand& of) { return {of.at, of.row == 0 ? 0 : kLanes}; }

  // to = f(operands), vector by vector.
  template <class F, class... Operands>
  [[gnu::always_inline]] static void Each(const Block& block, const Operand& to, const F& f,
                                          const Operands&... of) {
    if (IsOfUnits(to) && (IsOfRows(of) || ...)) {
      for (int64_t r = 0; r < block.rows; ++r) {
        for (int64_t u = 0; u < block.units; ++u) to.Set(r, u, f(of.Get(r, u)...));
      }
      return;
    }
    const int64_t count = IsOfUnits(to) ? block.rows * block.units : block.rows;
    float* const at = to.at;
    const auto run = [&](const auto&... runs) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i) Store(at + i * kLanes, f(runs.Next(i)...));
    };
    run(RunOf(of)...);
  }
  static bool IsOfUnits(const Operand& of) { return of.unit != 0; }
  static bool IsOfRows(const Operand& of) { return of.unit == 0 && of.row != 0; }

  void RunBlock(const ProgramLoop& loop, const SlicePlan* plans, const Block& block) const {
    for (const Instruction& instruction : loop.code) {
      const Operand to = At(loop, instruction.at[0], block.units);
      const auto operand = [&](int i) { return At(loop, instruction.at[i], block.units); };
      switch (instruction.op) {
        case Operation::kLoadOperand: LoadOperand(loop, instruction, block, to); break;
        case Operation::kLoadBuffer: LoadBuffer(instruction, block, to); break;
        case Operation::kLoadProduct: LoadProduct(loop, instruction, plans, block, to); break;
        case Operation::kReduce: Reduce(instruction, block, to); break;
        case Operation::kStoreY: StoreY(loop, instruction, block, to); break;
        case Operation::kStoreBuffer: StoreBuffer(loop, instruction, block, to); break;
#define JP_MOVE(name, registers, numbers)
#define JP_UNARY(name, expression) \
  case Operation::k##name: Each(block, to, [](Vec a) { return expression; }, operand(1)); break;
#define JP_BINARY(name, expression)                                                   \
  case Operation::k##name:                                                            \
    Each(block, to, [](Vec a, Vec b) { return expression; }, operand(1), operand(2)); \
    break;
#define JP_TERNARY(name, expression)                                                       \
  case Operation::k##name:                                                                 \
    Each(                                                                                  \
        block, to, [](Vec a, Vec b, Vec c) { return expression; }, operand(1), operand(2), \
        operand(3));                                                                       \
    break;
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
      }
    }
  }

  void LoadOperand(const ProgramLoop& loop, const Instruction& instruction, const Block& block,
                   const Operand& to) const {
    const int64_t n = instruction.numbers[0], offset = instruction.numbers[1];
    const ProgramArray& array = program_.operands[n];
    const int64_t t = n < program_.consts ? 0 : block.t;
    const bool whole = array.type == ValueType::kFloat32 && IsWhole(loop, block);
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t at = Place(array, t, block.row + r) + offset;
      if (!IsOfUnits(to)) {
        to.Set(r, 0, Broadcast(LoadValues(array, call_.operands[n], at, 1)[0]));
        continue;
      }
      if (whole) {
        const float* from = static_cast<const float*>(call_.operands[n]) + at + block.unit * kLanes;
        for (int64_t u = 0; u < block.units; ++u) to.Set(r, u, Load(from + u * kLanes));
        continue;
      }
      for (int64_t u = 0; u < block.units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        to.Set(r, u, LoadValues(array, call_.operands[n], at + unit, Lanes(loop.width, unit)));
      }
    }
  }

  // Of a carry, what the step before has stored; a buffer's rows are padded.
  void LoadBuffer(const Instruction& instruction, const Block& block, const Operand& to) const {
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* from =
          Buffer(instruction.numbers[0], block.step, block.row + r) + instruction.numbers[1];
      if (!IsOfUnits(to)) {
        to.Set(r, 0, Broadcast(*from));
        continue;
      }
      from += block.unit * kLanes;
      for (int64_t u = 0; u < block.units; ++u) to.Set(r, u, Load(from + u * kLanes));
    }
  }

  void LoadProduct(const ProgramLoop& loop, const Instruction& instruction, const SlicePlan* plans,
                   const Block& block, const Operand& to) const {
    const SlicePlan& plan = plans[instruction.numbers[0]];
    const ProgramSlice& slice = loop.slices[instruction.numbers[0]];
    const int64_t heads = slice.heads;
    if (heads > 1) return LoadHeads(heads, loop.width / heads, instruction, plan, block, to);
    if (MatrixOf(slice).is_packed) {
      return LoadColumns(slice.gates[instruction.numbers[1]].base, plan, block, to);
    }
    const int64_t gates = plan.gemm.gates, panel = plan.gemm.panel_vectors;
    const int64_t last = Last(plan.gemm.unit_vectors);
    const int64_t width = ((last - block.first) * gates + panel - 1) / panel * panel * kLanes;
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* from = Products(plan) + (block.row + r) * width +
                          ((block.unit - block.first) * gates + instruction.numbers[1]) * kLanes;
      if (!IsOfUnits(to)) {
        to.Set(r, 0, Broadcast(*from));
        continue;
      }
      for (int64_t u = 0; u < block.units; ++u) to.Set(r, u, Load(from + u * gates * kLanes));
    }
  }

  // Products with a packed matrix, which lie as its columns do, from one of them on.
  void LoadColumns(int64_t column, const SlicePlan& plan, const Block& block,
                   const Operand& to) const {
    const int64_t width = plan.gemm.panels * plan.gemm.panel_vectors * kLanes;
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* const from =
          Products(plan) + (block.row + r) * width + column + block.unit * kLanes;
      if (!IsOfUnits(to)) {
        to.Set(r, 0, Broadcast(*from));
        continue;
      }
      for (int64_t u = 0; u < block.units; ++u) to.Set(r, u, Load(from + u * kLanes));
    }
  }

  // Products of several heads, each with so many of the loop's units.
  void LoadHeads(int64_t heads, int64_t units, const Instruction& instruction,
                 const SlicePlan& plan, const Block& block, const Operand& to) const {
    const int64_t gates = plan.gemm.gates;
    const int64_t width = plan.gemm.panels * plan.gemm.panel_vectors * kLanes;
    const float* const products = Products(plan) + instruction.numbers[1] * kLanes;
    const auto place = [&](int64_t head, int64_t b, int64_t unit) {
      return products + (head * batch_ + b) * width + unit / kLanes * gates * kLanes +
             unit % kLanes;
    };
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t b = block.row + r;
      for (int64_t u = 0; u < block.units; ++u) {
        int64_t unit = (block.unit + u) * kLanes, head = unit / units;
        unit -= head * units;
        if (units % kLanes == 0) {
          to.Set(r, u, Load(place(head, b, unit)));
          continue;
        }
        float lanes[kLanes] = {};
        for (int i = 0; i < kLanes && head < heads; ++i) {
          lanes[i] = *place(head, b, unit);
          if (++unit == units) unit = 0, ++head;
        }
        to.Set(r, u, Load(lanes));
      }
    }
  }

  // Every worker reduces by itself: the result does not depend on their number.
  void Reduce(const Instruction& instruction, const Block& block, const Operand& to) const {
    const int64_t count = instruction.numbers[2];
    const auto kind = static_cast<Reduction>(instruction.numbers[3]);
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* from =
          Buffer(instruction.numbers[0], block.step, block.row + r) + instruction.numbers[1];
      float lanes[kLanes];
      for (float& lane : lanes) lane = kind == Reduction::kSum ? 0.0f : from[0];
      int64_t k = 0;
      Vec sums = Load(lanes);
      for (; k + kLanes <= count; k += kLanes) sums = Reduced(kind, sums, Load(from + k));
      Store(lanes, sums);
      float found = kind == Reduction::kSum ? 0.0f : from[0];
      for (const float lane : lanes) found = Reduced(kind, Broadcast(found), Broadcast(lane))[0];
      for (; k < count; ++k) found = Reduced(kind, Broadcast(found), Broadcast(from[k]))[0];
      to.Set(r, 0, Broadcast(found));
    }
  }

  static Vec Reduced(Reduction kind, Vec a, Vec b) {
    return kind == Reduction::kSum ? a + b : kind == Reduction::kMax ? Larger(a, b) : Smaller(a, b);
  }

  // Whether all lanes of a block's vectors are units of the loop.
  static bool IsWhole(const ProgramLoop& loop, const Block& block) {
    return (block.unit + block.units) * kLanes <= loop.width;
  }

  void StoreY(const ProgramLoop& loop, const Instruction& instruction, const Block& block,
              const Operand& from) const {
    const int64_t n = instruction.numbers[0];
    ProgramArray array = program_.ys[n];
    array.has_groups = array.has_rows = true;
    void* const to = call_.results[program_.carries + n];
    const bool whole = array.type == ValueType::kFloat32 && IsWhole(loop, block);
    const int64_t units = IsOfUnits(from) ? block.units : 1;
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t at = Place(array, block.t, block.row + r) + instruction.numbers[1];
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        if (whole) {
          Store(static_cast<float*>(to) + at + unit, from.Get(r, u));
        } else {
          StoreValues(array, to, at + unit, from.Get(r, u), Lanes(loop.width, unit));
        }
      }
    }
  }

  void StoreBuffer(const ProgramLoop& loop, const Instruction& instruction, const Block& block,
                   const Operand& from) const {
    const int64_t n = instruction.numbers[0], next = program_.buffers[n].is_carry;
    const bool whole = IsWhole(loop, block);
    const int64_t units = IsOfUnits(from) ? block.units : 1;
    for (int64_t r = 0; r < block.rows; ++r) {
      float* to = Buffer(n, block.step + next, block.row + r) + instruction.numbers[1];
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        if (whole) {
          Store(to + unit, from.Get(r, u));
        } else {
          StorePart(to + unit, from.Get(r, u), Lanes(loop.width, unit));
        }
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
