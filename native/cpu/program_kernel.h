// SPDX-License-Identifier: Apache-2.0
// Runs programs, in one instruction set; see forward.h for how it is included.
//
// An instruction works on a block: up to kBlockVectors vectors, some units of some rows. A register
// has the block's vectors one row after the other; one that is alike in all units has a vector for
// each row. So an instruction is looked at once for hundreds of values.
#pragma once

#include "native/cpu/program_math.h"
#include "native/cpu/program_plan.h"
#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

class ProgramKernel {
 public:
  // What a worker does in a phase: the first packs, the second is that of an early stage, if there
  // is one; then each is a stage, or a whole step where workers divide the rows. The last hands
  // out the carry.
  static void RunPhase(const ProgramCall& call, int worker, int64_t phase) {
    const ProgramPlan& plan = call.plan;
    const int64_t of_group = phase % plan.phases;
    const ProgramKernel kernel(call, phase / plan.phases, worker);
    if (of_group == 0) return kernel.Begin();
    if (of_group == plan.phases - 1) return kernel.Finish();
    const int64_t early = call.program.early, steps = call.program.steps;
    if (plan.splits_batch) {
      for (int64_t step = 0; step < steps; ++step) {
        if (early && step == 0) kernel.RunStage(0, 0);
        for (int64_t i = 0; i < plan.main_stages; ++i) kernel.RunStage(early + i, step);
        if (early && step + 1 < steps) kernel.RunStage(0, step + 1);
      }
      return;
    }
    if (early && of_group == 1) return kernel.RunStage(0, 0);
    const int64_t at = of_group - 1 - early, step = at / plan.main_stages;
    const int64_t stage = at % plan.main_stages;
    kernel.RunStage(early + stage, step);
    if (early && stage + 1 == plan.main_stages && step + 1 < steps) kernel.RunStage(0, step + 1);
  }

 private:
  ProgramKernel(const ProgramCall& c, int64_t g, int w)
      : call_(c),
        group_(g),
        worker_(w),
        batch_(c.program.rows),
        first_row_(plan_.splits_batch ? w * batch_ / plan_.workers : 0),
        last_row_(plan_.splits_batch ? (w + 1) * batch_ / plan_.workers : batch_) {}

  // A worker's vectors of so many, from the first to before the last.
  int64_t First(int64_t vectors) const {
    return plan_.splits_batch ? 0 : worker_ * vectors / plan_.workers;
  }
  int64_t Last(int64_t vectors) const {
    return plan_.splits_batch ? vectors : (worker_ + 1) * vectors / plan_.workers;
  }
  template <class T>
  T* Memory(int64_t at) const {
    return reinterpret_cast<T*>(call_.memory + at);
  }
  float* Buffer(int64_t i, int64_t step, int64_t b) const {
    const int64_t copy = step & 1;
    return Memory<float>(plan_.buffers[i]) + (copy * batch_ + b) * plan_.buffer_rows[i];
  }
  float* Products(const SlicePlan& slice) const {
    return Memory<float>(plan_.products) + worker_ * plan_.product_floats + slice.products;
  }
  // Where row b's features of an array [T?, G?, B?, features] begin.
  int64_t Place(const ProgramArray& array, int64_t t, int64_t b) const {
    int64_t at = t;
    if (array.has_groups) at = at * program_.groups + group_;
    if (array.has_rows) at = at * batch_ + b;
    return at * array.features;
  }

  // --- the first phase and the last

  void Begin() const {
    for (size_t s = 0; s < program_.stages.size(); ++s) {
      for (size_t l = 0; l < program_.stages[s].size(); ++l) {
        const ProgramLoop& loop = program_.stages[s][l];
        for (size_t i = 0; i < loop.slices.size(); ++i) {
          const ProgramSlice& slice = loop.slices[i];
          const SlicePlan& plan = plan_.slices[s][l][i];
          if (program_.operands[slice.gates[0].operand].type == ValueType::kFloat32) {
            Pack<float>(slice, plan, loop.width);
          } else {
            Pack<bfloat16>(slice, plan, loop.width);
          }
        }
      }
    }
    if (worker_ == 0) {
      float* literals = Memory<float>(plan_.literals);
      for (size_t i = 0; i < program_.literals.size(); ++i) {
        Store(literals + i * kLanes, Broadcast(program_.literals[i]));
      }
    }
    for (size_t i = 0; i < program_.buffers.size(); ++i) {
      const int64_t width = program_.buffers[i].width, row = plan_.buffer_rows[i];
      const bool all_rows = plan_.splits_batch;
      for (int64_t b = first_row_; b < last_row_; ++b) {
        if (!all_rows && b % plan_.workers != worker_) continue;
        std::memset(Buffer(i, 0, b), 0, row * sizeof(float));
        std::memset(Buffer(i, 1, b), 0, row * sizeof(float));
        if (!program_.buffers[i].is_carry) continue;
        const ProgramArray& array = program_.operands[program_.consts + i];
        const void* from = call_.operands[program_.consts + i];
        for (int64_t u = 0; u < width; u += kLanes) {
          StorePart(Buffer(i, 0, b) + u,
                    LoadValues(array, from, Place(array, 0, b) + u, Lanes(width, u)),
                    Lanes(width, u));
        }
      }
    }
  }

  // A head's packed weights: of several, a head is packed as a whole.
  template <class T>
  Slice<T> SliceOf(const ProgramSlice& slice, const SlicePlan& plan, int64_t head) const {
    return {plan.gemm, call_.memory + plan.packed + head * plan.gemm.packed_bytes,
            slice.heads > 1 ? 0 : worker_};
  }

  template <class T>
  void Pack(const ProgramSlice& slice, const SlicePlan& plan, int64_t width) const {
    for (int64_t head = 0; head < slice.heads; ++head) {
      if (slice.heads > 1 && head % plan_.workers != worker_) continue;
      PackHead(SliceOf<T>(slice, plan, head), slice, head, width / slice.heads);
    }
  }

  template <class T>
  void PackHead(const Slice<T>& to, const ProgramSlice& slice, int64_t head, int64_t width) const {
    const int gates = to.plan.gates, vectors = to.plan.panel_vectors;
    for (int64_t p = to.first_packed; p < to.last_packed; ++p) {
      for (int c = 0; c < vectors; ++c) {
        const int64_t column = p * vectors + c, unit = to.first + column / gates;
        const GateMatrix& gate = slice.gates[column % gates];
        const T* from = static_cast<const T*>(call_.operands[gate.operand]) + gate.base +
                        head * gate.head + Place(program_.operands[gate.operand], 0, 0) +
                        unit * kLanes * gate.column;
        const int n = to.LanesOf(unit, width);
        if (gate.column == 1) {
          CopyColumns(to.Panel(p), vectors, c, 0, to.plan.k, from, gate.row, slice.k, n);
        } else {
          TransposeRows(to.Panel(p), vectors, c, 0, to.plan.k, from, gate.column, slice.k, n);
        }
      }
    }
  }

  void Finish() const {
    for (int64_t i = 0; i < program_.carries; ++i) {
      const ProgramArray& array = program_.operands[program_.consts + i];
      for (int64_t b = first_row_; b < last_row_; ++b) {
        if (!plan_.splits_batch && b % plan_.workers != worker_) continue;
        const float* from = Buffer(i, program_.steps, b);
        for (int64_t u = 0; u < array.features; u += kLanes) {
          StoreValues(array, call_.results[i], Place(array, 0, b) + u, Load(from + u),
                      Lanes(array.features, u));
        }
      }
    }
  }

  // n values of an array, from place `at` on.
  static Vec LoadValues(const ProgramArray& array, const void* from, int64_t at, int n) {
    switch (array.type) {
      case ValueType::kFloat32: return LoadPart(static_cast<const float*>(from) + at, n);
      case ValueType::kBfloat16: return LoadPart(static_cast<const bfloat16*>(from) + at, n);
      case ValueType::kBool: break;
    }
    float lanes[kLanes] = {};
    for (int i = 0; i < n; ++i) lanes[i] = static_cast<const unsigned char*>(from)[at + i];
    return Load(lanes);
  }

  static void StoreValues(const ProgramArray& array, void* to, int64_t at, Vec v, int n) {
    switch (array.type) {
      case ValueType::kFloat32: return StorePart(static_cast<float*>(to) + at, v, n);
      case ValueType::kBfloat16: return StorePart(static_cast<bfloat16*>(to) + at, v, n);
      case ValueType::kBool: break;
    }
    float lanes[kLanes];
    Store(lanes, v);
    for (int i = 0; i < n; ++i) static_cast<unsigned char*>(to)[at + i] = lanes[i] != 0.0f;
  }

  // --- a stage

  void RunStage(int64_t s, int64_t step) const {
    for (size_t l = 0; l < program_.stages[s].size(); ++l) {
      const ProgramLoop& loop = program_.stages[s][l];
      const int64_t vectors = (loop.width + kLanes - 1) / kLanes;
      const int64_t first = First(vectors), last = Last(vectors);
      if (first == last) continue;
      const std::vector<SlicePlan>& plans = plan_.slices[s][l];
      const int64_t most = last - first < kBlockVectors ? last - first : kBlockVectors;
      const int64_t rows = kBlockVectors / most;
      const auto block = [&](int64_t b, int64_t u) {
        const int64_t here = last_row_ - b < rows ? last_row_ - b : rows;
        return Block{step, Time(step), b, here, u, last - u < most ? last - u : most, first};
      };
      PrefetchBlock(loop, block(first_row_, first));
      for (size_t i = 0; i < loop.slices.size(); ++i) {
        const ProgramSlice& slice = loop.slices[i];
        if (program_.operands[slice.gates[0].operand].type == ValueType::kFloat32) {
          Multiply<float>(loop, slice, plans[i], step);
        } else {
          Multiply<bfloat16>(loop, slice, plans[i], step);
        }
      }
      for (int64_t b = first_row_; b < last_row_; b += rows) {
        for (int64_t u = first; u < last; u += most) {
          if (u + most < last) {
            PrefetchBlock(loop, block(b, u + most));
          } else if (b + rows < last_row_) {
            PrefetchBlock(loop, block(b + rows, first));
          }
          RunBlock(loop, plans.data(), block(b, u));
        }
      }
    }
  }

  int64_t Time(int64_t step) const { return program_.reverse ? program_.steps - 1 - step : step; }

  template <class T>
  void Multiply(const ProgramLoop& loop, const ProgramSlice& slice, const SlicePlan& plan,
                int64_t step) const {
    const int64_t vectors = (loop.width + kLanes - 1) / kLanes, units = loop.width / slice.heads;
    for (int64_t head = 0; head < slice.heads; ++head) {
      // Of several, a worker multiplies those that it has units of.
      const bool mine =
          First(vectors) * kLanes < (head + 1) * units && head * units < Last(vectors) * kLanes;
      if (mine) MultiplyHead(SliceOf<T>(slice, plan, head), slice, plan, head, step);
    }
  }

  template <class T>
  void MultiplyHead(const Slice<T>& weights, const ProgramSlice& slice, const SlicePlan& plan,
                    int64_t head, int64_t step) const {
    const Traversal traversal = step % 2 == 0 ? Traversal::kForwards : Traversal::kBackwards;
    for (int64_t b = first_row_; b < last_row_; b += kChunkRows) {
      const int64_t rows = last_row_ - b < kChunkRows ? last_row_ - b : kChunkRows;
      const float* in[kChunkRows];
      for (int64_t r = 0; r < rows; ++r) {
        in[r] = Buffer(slice.buffer, step, b + r) + slice.offset + head * slice.k;
      }
      weights.MultiplyAll(in, rows, batch_ == 1, {},
                          Products(plan) + (head * batch_ + b) * weights.Width(), traversal);
    }
  }

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
    const int64_t heads = loop.slices[instruction.numbers[0]].heads;
    if (heads > 1) return LoadHeads(heads, loop.width / heads, instruction, plan, block, to);
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

  const ProgramCall& call_;
  const Program& program_ = call_.program;
  const ProgramPlan& plan_ = call_.plan;
  const int64_t group_;
  const int worker_;
  const int64_t batch_;
  const int64_t first_row_, last_row_;
};

}  // namespace jp::cpu::JP_ISA
