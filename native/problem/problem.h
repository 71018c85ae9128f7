// SPDX-License-Identifier: Apache-2.0
// One recurrence without its arrays: what is computed, of which sizes, in which layout.
//
// jax_persistent/problem/problem.py has the same fields under the same names; they travel as the
// attributes of a custom call.
#pragma once

#include "native/cells/cells.h"

namespace jp {

enum class Pass { kForward, kBackward };

enum class DType { kFloat32, kBfloat16, kFloat16, kFloat64 };  // float64: on no backend so far

constexpr size_t ByteWidth(DType type) {
  return type == DType::kFloat64 ? 8 : type == DType::kFloat32 ? 4 : 2;
}

// Which way rows run, as jax_persistent/problem/problem.py says it. Both: of two groups that follow
// each other, one layer, the second runs in reverse.
enum class Directions { kForward, kReverse, kBoth };

// How the weights are given for which operands.def has PER_GATE, as problem.py says it.
enum class WeightArrays { kOne, kPerDirection, kPerGate };

// The optional parts of a problem; operands.def says what each means and which arrays it brings.
enum class Part : uint32_t {
#define JP_PART(part) part,
#define JP_OPERAND(...)
#define JP_RESULT(...)
#include "jax_persistent/problem/operands.def"
#undef JP_PART
#undef JP_OPERAND
#undef JP_RESULT
  always,
};

// Of a size that is known only once there are arrays: a program was exported for several sizes.
inline constexpr int64_t kUnknownSize = -1;

struct Problem {
  Pass pass{};
  CellTraits cell{};
  DType dtype{};
  int64_t groups = 1;  // N: independent problems, each with its own weights
  int64_t batch = 1;   // B
  int64_t steps = 1;   // T
  int64_t inputs = 0;  // I; 0 where nothing has input features
  int64_t hidden = 1;  // H
  Directions directions{};
  WeightArrays weights{};
  bool time_major = false;
  bool tf32 = false;         // float32 products may be rounded to it, where the hardware has it
  int64_t packed_lanes = 0;  // kernels are packed for vectors of so many units; 0: they are not
  uint32_t parts = 0;        // a bit for each Part

  JP_HOST_DEVICE constexpr bool has(Part part) const {
    return part == Part::always || (parts >> static_cast<uint32_t>(part) & 1) != 0;
  }
  constexpr bool HasWideStates() const { return has(Part::chunked) && ByteWidth(dtype) == 2; }
  constexpr DType StateDType() const { return HasWideStates() ? DType::kFloat32 : dtype; }
  constexpr Problem& Add(Part part) {
    parts |= uint32_t{1} << static_cast<uint32_t>(part);
    return *this;
  }
  JP_HOST_DEVICE constexpr int64_t columns() const { return cell.gates * hidden; }  // G*H
  JP_HOST_DEVICE constexpr int ways() const {
    return directions == Directions::kBoth ? 2 : 1;
  }  // D
  // Arrays of each of the weights.
  constexpr int weight_arrays() const {
    return weights == WeightArrays::kOne ? 1 : ways() * cell.gates / gates_of_an_array();
  }
  // Gates whose columns lie side by side in an array.
  JP_HOST_DEVICE constexpr int gates_of_an_array() const {
    return weights == WeightArrays::kPerGate ? 1 : cell.gates;
  }
  JP_HOST_DEVICE constexpr bool Reverses(int64_t group) const {
    return directions == Directions::kBoth ? group % 2 != 0 : directions == Directions::kReverse;
  }
};

}  // namespace jp
