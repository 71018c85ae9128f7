// SPDX-License-Identifier: Apache-2.0
// What a worker of a program has: its rows, its units, and where values lie. See forward.h for how
// it is included.
#pragma once

#include <cstring>

#include "native/cpu/pack.h"
#include "native/cpu/program_plan.h"

namespace jp::cpu::JP_ISA {

class ProgramWorker {
 protected:
  ProgramWorker(const ProgramCall& c, int64_t g, int w)
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
  bfloat16* RoomForRounded() const {
    return Memory<bfloat16>(plan_.rounded) + worker_ * plan_.rounded_values;
  }
  const ProgramArray& MatrixOf(const ProgramSlice& slice) const {
    return program_.operands[slice.gates[0].operand];
  }
  // Where row b's features of an array [T?, G?, B?, features] begin.
  int64_t Place(const ProgramArray& array, int64_t t, int64_t b) const {
    int64_t at = t;
    if (array.has_groups) at = at * program_.groups + group_;
    if (array.has_rows) at = at * batch_ + b;
    return at * array.features;
  }

  int64_t Time(int64_t step) const { return program_.reverse ? program_.steps - 1 - step : step; }

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

  const ProgramCall& call_;
  const Program& program_ = call_.program;
  const ProgramPlan& plan_ = call_.plan;
  const int64_t group_;
  const int worker_;
  const int64_t batch_;
  const int64_t first_row_, last_row_;
};

}  // namespace jp::cpu::JP_ISA
