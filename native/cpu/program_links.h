// SPDX-License-Identifier: Apache-2.0
// Links a program's code: an instruction's numbers become addresses, once a call; see forward.h for
// how it is included.
#pragma once

#include "native/cpu/program_worker.h"

namespace jp::cpu::JP_ISA {

class ProgramLinks : protected ProgramWorker {
 protected:
  using ProgramWorker::ProgramWorker;

  // What a worker runs an instruction on at once: a loop's vectors of some units of some rows.
  struct Block {
    int64_t clocks[4];  // by Clock
    int64_t row, rows;
    int64_t unit, units;  // in vectors
    bool is_whole;        // all lanes are units of the loop
  };

  // How a worker's part of a loop is cut into blocks: of more than one row, each has all units.
  struct Blocks {
    int64_t first, last;  // vectors of units
    int64_t units, rows;  // of a block, at most
  };
  Blocks BlocksOf(const ProgramLoop& loop) const {
    const int64_t vectors = (loop.width + kLanes - 1) / kLanes;
    const int64_t first = First(vectors), last = Last(vectors);
    const int64_t units = last - first < kBlockVectors ? last - first : kBlockVectors;
    const int64_t rows = units > 0 ? kBlockVectors / units : 0, own = last_row_ - first_row_;
    return {first, last, units, rows < own ? rows : own};
  }

  Link* Links(const LoopPlan& plan) const {
    return Memory<Link>(plan_.links) + worker_ * plan_.link_count + plan.links;
  }
  Stream* Streams(const LoopPlan& plan) const {
    return Memory<Stream>(plan_.streams) + worker_ * plan_.stream_count + plan.streams;
  }
  View* Views() const { return Memory<View>(plan_.views) + worker_ * plan_.view_count; }
  View* Results(const LoopPlan& plan) const {
    return Views() + program_.literals.size() + plan.links;
  }

  static char* At(const Address& address, int64_t clock, const Block& block) {
    return address.origin + clock * address.of_clock + block.row * address.of_row +
           block.unit * address.of_unit;
  }

  void LinkLiterals() const {
    const float* const literals = Memory<float>(plan_.literals);
    for (size_t i = 0; i < program_.literals.size(); ++i) {
      Views()[i] = {literals + i * kLanes, 0, 0};
    }
  }

  void LinkLoop(const ProgramLoop& loop, const LoopPlan& plan) const {
    const Blocks blocks = BlocksOf(loop);
    if (blocks.units == 0) return;
    Stream* stream = Streams(plan);
    for (size_t n = 0; n < loop.code.size(); ++n) {
      const Instruction& instruction = loop.code[n];
      Link& link = Links(plan)[n];
      link = {};
      link.op = instruction.op;
      const bool stores = IsStore(instruction.op);
      link.of_rows = instruction.at[0].kind == RegisterKind::kRows;
      LinkOperands(loop, instruction, blocks, link);
      if (!stores) {
        View& result = Results(plan)[n];
        link.to = Own(loop, instruction.at[0]);
        result = {link.to, kLanes, 0};
        if (!link.of_rows) result = {link.to, blocks.units * kLanes, kLanes};
        Latest(loop, instruction.at[0]) = static_cast<int32_t>(&result - Views());
        LinkMove(loop, plan, blocks, instruction, link, result);
      } else {
        LinkStore(instruction, link);
      }
      if (link.clock == Clock::kTime) {
        const bool of_y = instruction.op == Operation::kStoreY;
        const ProgramArray& array =
            of_y ? program_.ys[instruction.numbers[0]] : program_.operands[instruction.numbers[0]];
        *stream++ = {link.address, kLanes * SizeOf(array), stores};
      }
    }
  }

 private:
  static int64_t SizeOf(const ProgramArray& array) {
    switch (array.type) {
      case ValueType::kFloat32: return sizeof(float);
      case ValueType::kBfloat16: return sizeof(bfloat16);
      case ValueType::kBool: break;
    }
    return 1;
  }

  // A register's own memory, of a block's vectors.
  float* Own(const ProgramLoop& loop, const Register& of) const {
    const int64_t at = (of.kind == RegisterKind::kRows ? loop.registers : 0) + of.index;
    return Memory<float>(plan_.registers) + worker_ * plan_.register_floats +
           at * kBlockVectors * kLanes;
  }

  // Which view a register has.
  int32_t& Latest(const ProgramLoop& loop, const Register& of) const {
    const int64_t at = (of.kind == RegisterKind::kRows ? loop.registers : 0) + of.index;
    return Memory<int32_t>(plan_.latest)[worker_ * plan_.latest_count + at];
  }

  void LinkOperands(const ProgramLoop& loop, const Instruction& instruction, const Blocks& blocks,
                    Link& link) const {
    const int first = IsStore(instruction.op) ? 0 : 1;
    link.in_one_run = true;
    for (int i = 0; i < instruction.reads; ++i) {
      const Register& read = instruction.at[first + i];
      link.from[i] = read.kind == RegisterKind::kLiteral ? read.index : Latest(loop, read);
      const View& view = Views()[link.from[i]];
      link.in_one_run &= blocks.rows == 1 || view.row == blocks.units * view.unit;
    }
  }

  Address OfArray(const ProgramArray& array, const void* at, int64_t offset) const {
    const int64_t size = SizeOf(array), steps = Place(array, 1, 0) - Place(array, 0, 0);
    char* const begin = static_cast<char*>(const_cast<void*>(at));
    return {begin + (Place(array, 0, 0) + offset) * size, steps * size,
            array.has_rows ? array.features * size : 0, kLanes * size};
  }

  Address OfBuffer(int64_t n, int64_t offset) const {
    const int64_t row = plan_.buffer_rows[n] * sizeof(float);
    return {Memory<char>(plan_.buffers[n]) + offset * sizeof(float), batch_ * row, row,
            kLanes * sizeof(float)};
  }

  // Of what an instruction loads: its address, and a view if it can stay where it is.
  void LinkMove(const ProgramLoop& loop, const LoopPlan& plan, const Blocks& blocks,
                const Instruction& instruction, Link& link, View& result) const {
    const int64_t n = instruction.numbers[0], offset = instruction.numbers[1];
    switch (instruction.op) {
      case Operation::kLoadOperand: {
        const ProgramArray& array = program_.operands[n];
        link.address = OfArray(array, call_.operands[n], offset);
        link.clock = n < program_.consts ? Clock::kNone : Clock::kTime;
        link.is_view = !link.of_rows && array.type == ValueType::kFloat32;
        break;
      }
      case Operation::kLoadBuffer:
      case Operation::kReduce:
        link.address = OfBuffer(n, offset);
        link.clock = Clock::kStep;
        link.is_view = !link.of_rows;
        break;
      case Operation::kLoadProduct: {
        link.address = OfProduct(loop.slices[n], plan.slices[n], blocks, offset);
        link.is_view = !link.of_rows && loop.slices[n].heads == 1;
        break;
      }
      default: return;
    }
    if (link.of_rows) link.address.of_unit = 0;
    // A block of several rows has all of the worker's units: all of them are whole, or none.
    const bool copies =
        instruction.op == Operation::kLoadOperand && blocks.last * kLanes > loop.width;
    if (!link.is_view || (blocks.rows > 1 && copies)) return;
    result.row = link.address.of_row / static_cast<int64_t>(sizeof(float));
    result.unit = link.address.of_unit / static_cast<int64_t>(sizeof(float));
  }

  // A gate's products: of a packed matrix they lie as its columns do.
  Address OfProduct(const ProgramSlice& slice, const SlicePlan& plan, const Blocks& blocks,
                    int64_t gate) const {
    const int64_t panel = plan.gemm.panel_vectors * kLanes;
    char* const products = reinterpret_cast<char*>(Products(plan));
    if (MatrixOf(slice).is_packed) {
      const int64_t width = plan.gemm.panels * panel;
      return {products + slice.gates[gate].base * sizeof(float), 0,
              width * static_cast<int64_t>(sizeof(float)), kLanes * sizeof(float)};
    }
    const int64_t unit = plan.gemm.gates * kLanes * sizeof(float);
    const int64_t last = slice.heads > 1 ? plan.gemm.unit_vectors : Last(plan.gemm.unit_vectors);
    const int64_t first = slice.heads > 1 ? 0 : blocks.first;
    const int64_t columns = (last - first) * plan.gemm.gates * kLanes;
    const int64_t width = (columns + panel - 1) / panel * panel * sizeof(float);
    return {products + gate * kLanes * sizeof(float) - first * unit, 0, width, unit};
  }

  void LinkStore(const Instruction& instruction, Link& link) const {
    const int64_t n = instruction.numbers[0], offset = instruction.numbers[1];
    if (instruction.op == Operation::kStoreY) {
      ProgramArray array = program_.ys[n];
      array.has_groups = array.has_rows = true;
      link.address = OfArray(array, call_.results[program_.carries + n], offset);
      link.clock = Clock::kTime;
    } else {
      link.address = OfBuffer(n, offset);
      link.clock = program_.buffers[n].is_carry ? Clock::kNextStep : Clock::kStep;
    }
  }
};

}  // namespace jp::cpu::JP_ISA
