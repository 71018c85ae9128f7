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

  // --- registers

  // A register that is written, whose vectors lie one after the other: so many of each row.
  struct Target {
    float* at;
    int64_t units;
    bool of_rows;  // it is alike in all units
    void Set(int64_t r, int64_t u, Vec v) const { Store(at + (r * units + u) * kLanes, v); }
  };

  // A register's own memory, of a block's vectors.
  float* Own(const ProgramLoop& loop, const Register& of) const {
    const int64_t at = (of.kind == RegisterKind::kRows ? loop.registers : 0) + of.index;
    return Memory<float>(plan_.registers) + worker_ * plan_.register_floats +
           at * kBlockVectors * kLanes;
  }

  Target Written(const ProgramLoop& loop, const Register& of, const Block& block) const {
    if (of.kind == RegisterKind::kRows) return {Own(loop, of), 1, true};
    const Target own{Own(loop, of), block.units, false};
    ViewOf(of.index) = {own.at, own.units * kLanes, kLanes};
    return own;
  }

  // Where the values of a register of units lie: in its memory, or where they were loaded from.
  View& ViewOf(int index) const {
    return Memory<View>(plan_.views)[worker_ * plan_.view_count + index];
  }

  View Read(const ProgramLoop& loop, const Register& of) const {
    switch (of.kind) {
      case RegisterKind::kUnits: return ViewOf(of.index);
      case RegisterKind::kRows: return {Own(loop, of), kLanes, 0};
      case RegisterKind::kLiteral: break;
    }
    return {Memory<float>(plan_.literals) + of.index * kLanes, 0, 0};
  }

  static Vec Get(const View& of, int64_t r, int64_t u) {
    return Load(of.at + r * of.row + u * of.unit);
  }

  // The block's first unit, or that of the loop for a register of rows.
  static int64_t UnitOf(const Register& to, const Block& block) {
    return to.kind == RegisterKind::kUnits ? block.unit * kLanes : 0;
  }

  // Takes what nobody changes while a block runs, from the block's first row and `UnitOf` on. Units
  // stay where they are.
  void Take(const ProgramLoop& loop, const Register& to, const Block& block,
            const View& from) const {
    if (to.kind == RegisterKind::kUnits) {
      ViewOf(to.index) = from;
      return;
    }
    const Target target = Written(loop, to, block);
    for (int64_t r = 0; r < block.rows; ++r) target.Set(r, 0, Broadcast(from.at[r * from.row]));
  }

  // A register that is read along with others: from one vector to the next.
  struct Run {
    const float* at;
    int64_t step;
    Vec Next(int64_t i) const { return Load(at + i * step); }
  };

  // to = f(operands), vector by vector: row by row or, where all have each row right after the one
  // before, in one run.
  template <class F, class... Views>
  [[gnu::always_inline]] static void Each(const Block& block, const Target& to, const F& f,
                                          const Views&... of) {
    const auto run = [&](int64_t first, int64_t count, const auto&... from) {
      float* const at = to.at + first * kLanes;
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i) Store(at + i * kLanes, f(from.Next(i)...));
    };
    if (to.of_rows) return run(0, block.rows, Run{of.at, of.row}...);
    if (((of.row == block.units * of.unit) && ...)) {
      return run(0, block.rows * block.units, Run{of.at, of.unit}...);
    }
    for (int64_t r = 0; r < block.rows; ++r) {
      run(r * block.units, block.units, Run{of.at + r * of.row, of.unit}...);
    }
  }

  // --- instructions

  void RunBlock(const ProgramLoop& loop, const SlicePlan* plans, const Block& block) const {
    for (const Instruction& instruction : loop.code) {
      const Register* const at = instruction.at;
      const auto each = [&](const auto& f, const auto&... of) {
        const auto run = [&](const auto&... views) {
          Each(block, Written(loop, at[0], block), f, views...);
        };
        run(Read(loop, of)...);
      };
      switch (instruction.op) {
        case Operation::kLoadOperand: LoadOperand(loop, instruction, block); break;
        case Operation::kLoadBuffer: LoadBuffer(loop, instruction, block); break;
        case Operation::kLoadProduct: LoadProduct(loop, instruction, plans, block); break;
        case Operation::kReduce: Reduce(loop, instruction, block); break;
        case Operation::kStoreY: StoreY(loop, instruction, block); break;
        case Operation::kStoreBuffer: StoreBuffer(loop, instruction, block); break;
#define JP_MOVE(name, registers, numbers)
#define JP_UNARY(name, expression) \
  case Operation::k##name: each([](Vec a) { return expression; }, at[1]); break;
#define JP_BINARY(name, expression) \
  case Operation::k##name: each([](Vec a, Vec b) { return expression; }, at[1], at[2]); break;
#define JP_TERNARY(name, expression)                                           \
  case Operation::k##name:                                                     \
    each([](Vec a, Vec b, Vec c) { return expression; }, at[1], at[2], at[3]); \
    break;
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
      }
    }
  }

  void LoadOperand(const ProgramLoop& loop, const Instruction& instruction,
                   const Block& block) const {
    const int64_t n = instruction.numbers[0];
    const Register& to = instruction.at[0];
    const ProgramArray& array = program_.operands[n];
    const int64_t t = n < program_.consts ? 0 : block.t;
    const int64_t at = Place(array, t, block.row) + instruction.numbers[1];
    const int64_t row = array.has_rows ? array.features : 0;
    if (array.type == ValueType::kFloat32 && IsWhole(loop, block)) {
      const float* const from = static_cast<const float*>(call_.operands[n]) + at;
      return Take(loop, to, block, {from + UnitOf(to, block), row, kLanes});
    }
    const Target target = Written(loop, to, block);
    const auto values = [&](int64_t r, int64_t unit, int lanes) {
      return LoadValues(array, call_.operands[n], at + r * row + unit, lanes);
    };
    for (int64_t r = 0; r < block.rows; ++r) {
      if (target.of_rows) {
        target.Set(r, 0, Broadcast(values(r, 0, 1)[0]));
        continue;
      }
      for (int64_t u = 0; u < block.units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        target.Set(r, u, values(r, unit, Lanes(loop.width, unit)));
      }
    }
  }

  // Of a carry, what the step before has stored; a buffer's rows are padded.
  void LoadBuffer(const ProgramLoop& loop, const Instruction& instruction,
                  const Block& block) const {
    const int64_t n = instruction.numbers[0];
    const Register& to = instruction.at[0];
    const float* const from = Buffer(n, block.step, block.row) + instruction.numbers[1];
    Take(loop, to, block, {from + UnitOf(to, block), plan_.buffer_rows[n], kLanes});
  }

  void LoadProduct(const ProgramLoop& loop, const Instruction& instruction, const SlicePlan* plans,
                   const Block& block) const {
    const SlicePlan& plan = plans[instruction.numbers[0]];
    const ProgramSlice& slice = loop.slices[instruction.numbers[0]];
    const int64_t gate = instruction.numbers[1], panel = plan.gemm.panel_vectors * kLanes;
    const Register& to = instruction.at[0];
    if (slice.heads > 1) {
      return LoadHeads(slice.heads, loop.width / slice.heads, gate, plan, block,
                       Written(loop, to, block));
    }
    if (MatrixOf(slice).is_packed) {  // the products lie as its columns do
      const int64_t width = plan.gemm.panels * panel;
      const float* const from = Products(plan) + block.row * width + slice.gates[gate].base;
      return Take(loop, to, block, {from + UnitOf(to, block), width, kLanes});
    }
    const int64_t unit = plan.gemm.gates * kLanes;
    const int64_t columns = (Last(plan.gemm.unit_vectors) - block.first) * unit;
    const int64_t width = (columns + panel - 1) / panel * panel;
    const float* const from = Products(plan) + block.row * width + gate * kLanes;
    Take(loop, to, block, {from + (block.unit - block.first) * unit, width, unit});
  }

  // Products of several heads, each with so many of the loop's units.
  void LoadHeads(int64_t heads, int64_t units, int64_t gate, const SlicePlan& plan,
                 const Block& block, const Target& to) const {
    const int64_t gates = plan.gemm.gates;
    const int64_t width = plan.gemm.panels * plan.gemm.panel_vectors * kLanes;
    const float* const products = Products(plan) + gate * kLanes;
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
  void Reduce(const ProgramLoop& loop, const Instruction& instruction, const Block& block) const {
    const Target to = Written(loop, instruction.at[0], block);
    const int64_t n = instruction.numbers[0], count = instruction.numbers[2];
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* const from = Buffer(n, block.step, block.row + r) + instruction.numbers[1];
      const auto reduced = [&](float neutral, const auto& join) {
        to.Set(r, 0, Broadcast(ReduceRow(from, count, neutral, join)));
      };
      switch (static_cast<Reduction>(instruction.numbers[3])) {
        case Reduction::kSum: reduced(0.0f, [](Vec a, Vec b) { return a + b; }); break;
        case Reduction::kMax: reduced(*from, Larger); break;
        case Reduction::kMin: reduced(*from, Smaller); break;
      }
    }
  }

  // Joins values to one, given one that changes nothing.
  template <class Join>
  static float ReduceRow(const float* from, int64_t count, float neutral, const Join& join) {
    constexpr int kChains = 4;  // an addition waits for the one before it
    Vec joined[kChains];
    for (Vec& each : joined) each = Broadcast(neutral);
    int64_t k = 0;
    for (; k + kChains * kLanes <= count; k += kChains * kLanes) {
      JP_UNROLL
      for (int c = 0; c < kChains; ++c) {
        joined[c] = join(joined[c], Load(from + k + c * kLanes));
      }
    }
    float lanes[kLanes];
    for (; k < count; k += kLanes) {
      const int n = Lanes(count, k);
      Store(lanes, Broadcast(neutral));
      std::memcpy(lanes, from + k, n * sizeof(float));
      joined[0] = join(joined[0], Load(lanes));
    }
    Store(lanes, join(join(joined[0], joined[1]), join(joined[2], joined[3])));
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        lanes[i] = join(Broadcast(lanes[i]), Broadcast(lanes[i + half]))[0];
      }
    }
    return lanes[0];
  }

  // Whether all lanes of a block's vectors are units of the loop.
  static bool IsWhole(const ProgramLoop& loop, const Block& block) {
    return (block.unit + block.units) * kLanes <= loop.width;
  }

  void StoreY(const ProgramLoop& loop, const Instruction& instruction, const Block& block) const {
    const View from = Read(loop, instruction.at[0]);
    const int64_t n = instruction.numbers[0];
    ProgramArray array = program_.ys[n];
    array.has_groups = array.has_rows = true;
    void* const to = call_.results[program_.carries + n];
    const bool whole = array.type == ValueType::kFloat32 && IsWhole(loop, block);
    const int64_t units = instruction.at[0].kind == RegisterKind::kUnits ? block.units : 1;
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t at = Place(array, block.t, block.row + r) + instruction.numbers[1];
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        if (whole) {
          Store(static_cast<float*>(to) + at + unit, Get(from, r, u));
        } else {
          StoreValues(array, to, at + unit, Get(from, r, u), Lanes(loop.width, unit));
        }
      }
    }
  }

  void StoreBuffer(const ProgramLoop& loop, const Instruction& instruction,
                   const Block& block) const {
    const View from = Read(loop, instruction.at[0]);
    const int64_t n = instruction.numbers[0], next = program_.buffers[n].is_carry;
    const bool whole = IsWhole(loop, block);
    const int64_t units = instruction.at[0].kind == RegisterKind::kUnits ? block.units : 1;
    for (int64_t r = 0; r < block.rows; ++r) {
      float* to = Buffer(n, block.step + next, block.row + r) + instruction.numbers[1];
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (block.unit + u) * kLanes;
        if (whole) {
          Store(to + unit, Get(from, r, u));
        } else {
          StorePart(to + unit, Get(from, r, u), Lanes(loop.width, unit));
        }
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
