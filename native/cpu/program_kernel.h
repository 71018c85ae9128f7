// SPDX-License-Identifier: Apache-2.0
// A program's phases, in one instruction set: packing, and stages of products and instructions. See
// forward.h for how it is included.
#pragma once

#include "native/cpu/program_blocks.h"
#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

class ProgramKernel : ProgramBlocks {
 public:
  // What a worker does in a phase: the first packs, the second is that of an early stage, if there
  // is one; then each is a stage, or all steps where workers do not meet. The last hands out the
  // carry.
  static void RunPhase(const ProgramCall& call, int worker, int64_t phase) {
    const ProgramPlan& plan = call.plan;
    const int64_t of_group = phase % plan.phases;
    const ProgramKernel kernel(call, phase / plan.phases, worker);
    if (of_group == 0) return kernel.Begin();
    if (of_group == plan.phases - 1) return kernel.Finish();
    const int64_t early = call.program.early, steps = call.program.steps;
    if (!plan.meets) {
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
  using ProgramBlocks::ProgramBlocks;

  // --- the first phase and the last

  void Begin() const {
    LinkLiterals();
    for (size_t s = 0; s < program_.stages.size(); ++s) {
      for (size_t l = 0; l < program_.stages[s].size(); ++l) {
        const ProgramLoop& loop = program_.stages[s][l];
        LinkLoop(loop, plan_.loops[s][l]);
        for (size_t i = 0; i < loop.slices.size(); ++i) {
          const ProgramSlice& slice = loop.slices[i];
          const SlicePlan& plan = plan_.loops[s][l].slices[i];
          if (MatrixOf(slice).is_packed || plan.gemm.in_place) continue;
          if (MatrixOf(slice).type == ValueType::kFloat32) {
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

  // A head's weights: packed or, with its gates' arrays, as they lie. Of several heads each is
  // packed as a whole, by one worker.
  template <class T>
  Slice<T> SliceOf(const ProgramSlice& slice, const SlicePlan& plan, int64_t head,
                   const KernelView<T>& in_place = {}) const {
    return {plan.gemm, call_.memory + plan.packed + head * plan.gemm.packed_bytes,
            slice.heads > 1 ? 0 : worker_, in_place, RoomForRounded()};
  }

  // Where each gate's weights of a head begin.
  template <class T>
  const T* WeightsOf(const GateMatrix& gate, int64_t head) const {
    return static_cast<const T*>(call_.operands[gate.operand]) + gate.base + head * gate.head +
           Place(program_.operands[gate.operand], 0, 0);
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
        const T* from = WeightsOf<T>(gate, head) + unit * kLanes * gate.column;
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

  // --- a stage

  void RunStage(int64_t s, int64_t step) const {
    for (size_t l = 0; l < program_.stages[s].size(); ++l) {
      const ProgramLoop& loop = program_.stages[s][l];
      const auto [first, last, most, rows] = BlocksOf(loop);
      if (most == 0) continue;
      const LoopPlan& plan = plan_.loops[s][l];
      const auto block = [&](int64_t b, int64_t u) {
        const int64_t here = last_row_ - b < rows ? last_row_ - b : rows;
        const int64_t units = last - u < most ? last - u : most;
        const bool is_whole = (u + units) * kLanes <= loop.width;
        return Block{{0, Time(step), step & 1, (step + 1) & 1}, b, here, u, units, is_whole};
      };
      PrefetchBlock(plan, block(first_row_, first));
      for (size_t i = 0; i < loop.slices.size(); ++i) {
        const ProgramSlice& slice = loop.slices[i];
        if (MatrixOf(slice).type == ValueType::kFloat32) {
          Multiply<float>(loop, slice, plan.slices[i], step);
        } else {
          Multiply<bfloat16>(loop, slice, plan.slices[i], step);
        }
      }
      for (int64_t b = first_row_; b < last_row_; b += rows) {
        for (int64_t u = first; u < last; u += most) {
          if (u + most < last) {
            PrefetchBlock(plan, block(b, u + most));
          } else if (b + rows < last_row_) {
            PrefetchBlock(plan, block(b + rows, first));
          }
          RunBlock(loop, plan, block(b, u));
        }
      }
    }
  }

  template <class T>
  void Multiply(const ProgramLoop& loop, const ProgramSlice& slice, const SlicePlan& plan,
                int64_t step) const {
    if (MatrixOf(slice).is_packed) return MultiplyPacked<T>(loop, slice, plan, step);
    const int64_t vectors = (loop.width + kLanes - 1) / kLanes, units = loop.width / slice.heads;
    for (int64_t head = 0; head < slice.heads; ++head) {
      // Of several, a worker multiplies those that it has units of.
      const bool mine =
          First(vectors) * kLanes < (head + 1) * units && head * units < Last(vectors) * kLanes;
      if (!mine) continue;
      const void* gates[kInPlaceGates] = {};
      for (size_t i = 0; plan.gemm.in_place && i < slice.gates.size(); ++i) {
        gates[i] = WeightsOf<T>(slice.gates[i], head);
      }
      const int64_t row = slice.gates[0].row;
      const Slice<T> weights =
          SliceOf<T>(slice, plan, head, {{gates, 0, row, row}, slice.k, units, false});
      float* const products = Products(plan) + head * batch_ * weights.Width();
      MultiplyRows(weights, slice, slice.offset + head * slice.k, step, products);
    }
  }

  // With a matrix that was packed before: those of its panels that have columns of the worker's
  // units.
  template <class T>
  void MultiplyPacked(const ProgramLoop& loop, const ProgramSlice& slice, const SlicePlan& plan,
                      int64_t step) const {
    const ProgramArray& matrix = MatrixOf(slice);
    const int64_t size = PackedMatrixValues(slice.k, matrix.columns, kLanes);
    const T* const panels = static_cast<const T*>(call_.operands[slice.gates[0].operand]) +
                            (matrix.has_groups ? group_ * size : 0);
    const Slice<T> weights(plan.gemm, const_cast<T*>(panels), 0, {}, RoomForRounded());
    const int64_t vectors = (loop.width + kLanes - 1) / kLanes, width = weights.PanelWidth();
    const int64_t first = First(vectors) * kLanes, units = Last(vectors) * kLanes;
    const int64_t last = units < loop.width ? units : loop.width;
    const auto is_read = [&](int64_t panel) {
      for (const GateMatrix& gate : slice.gates) {
        if (gate.base + first < (panel + 1) * width && panel * width < gate.base + last)
          return true;
      }
      return false;
    };
    for (int64_t end = 0; end < plan.gemm.panels;) {
      const int64_t begin = end;
      while (end < plan.gemm.panels && is_read(end)) ++end;
      if (begin < end) {
        float* const products = Products(plan) + begin * width;
        MultiplyRows(weights.Part(begin, end), slice, slice.offset, step, products);
      } else {
        ++end;
      }
    }
  }

  // The products of the worker's rows of a buffer, from a feature on.
  template <class T>
  void MultiplyRows(const Slice<T>& weights, const ProgramSlice& slice, int64_t feature,
                    int64_t step, float* products) const {
    const Traversal traversal = step % 2 == 0 ? Traversal::kForwards : Traversal::kBackwards;
    for (int64_t b = first_row_; b < last_row_; b += kChunkRows) {
      const int64_t rows = last_row_ - b < kChunkRows ? last_row_ - b : kChunkRows;
      const float* in[kChunkRows];
      for (int64_t r = 0; r < rows; ++r) in[r] = Buffer(slice.buffer, step, b + r) + feature;
      weights.MultiplyAll(in, rows, batch_ == 1, {}, products + b * weights.Width(), traversal);
    }
  }
};

}  // namespace jp::cpu::JP_ISA
