// SPDX-License-Identifier: Apache-2.0
// A problem's arrays in double, by the names of operands.def, with random values.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "native/problem/problem.h"

namespace jp::test {

#if defined(__aarch64__)  // where GCC has _Float16 in C++ from version 13 on
using Half = __fp16;
#else
using Half = _Float16;
#endif

// The nearest value that `type` can hold.
inline double RoundedTo(DType type, double value) {
  const float single = static_cast<float>(value);
  if (type == DType::kFloat32) return single;
  if (type == DType::kFloat16) return static_cast<Half>(single);
  uint32_t bits = std::bit_cast<uint32_t>(single);
  bits += 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xffff0000);
}

// A problem without the parts of one pass: those that say what is given. The problems of the two
// passes are made from it.
inline Problem Given(Problem problem, std::initializer_list<Part> parts) {
  problem.parts = 0;
  for (Part part : parts) problem.Add(part);
  return problem;
}

// Two ways to run so many groups: an odd number forward and in reverse, an even one in reverse and
// in both directions.
inline Directions EitherWay(int64_t groups, bool second) {
  if (groups % 2 == 0) return second ? Directions::kBoth : Directions::kReverse;
  return second ? Directions::kReverse : Directions::kForward;
}

inline const char* NameOf(Directions directions) {
  return directions == Directions::kBoth      ? " both directions"
         : directions == Directions::kReverse ? " reverse"
                                              : "";
}

// The forward pass, which stores the residuals unless told not to.
inline Problem ForwardOf(Problem given, bool residuals = true) {
  given.pass = Pass::kForward;
  if (residuals && given.cell.residuals > 0) given.Add(Part::residuals);
  return given;
}

// The backward pass, whose results are what `wanted` names, each with what belongs to it.
inline Problem BackwardOf(const Problem& given, std::initializer_list<Part> wanted) {
  Problem problem = given;
  problem.pass = Pass::kBackward;
  problem.parts = 0;
  for (Part part : {Part::lengths, Part::resets, Part::reset_state}) {
    if (given.has(part)) problem.Add(part);
  }
  if (given.cell.residuals > 0) problem.Add(Part::residuals);
  for (Part part : wanted) {
    problem.Add(part);
    if (part == Part::d_weights && given.has(Part::bias)) problem.Add(Part::d_bias);
    if (part == Part::d_weights && given.has(Part::recurrent_bias)) {
      problem.Add(Part::d_recurrent_bias);
    }
    if (part == Part::d_gates && given.cell.reset_after) problem.Add(Part::d_recurrent_gates);
  }
  return problem;
}

// Every array of a forward and a backward call. Those that a problem has not are empty, but for
// `lengths`, `resets` and `reset_state`, which then say what their absence means.
struct Arrays {
  DType dtype;
  std::vector<int32_t> lengths;
  std::vector<uint8_t> resets;
  std::vector<double> x, input_kernel, bias;  // of which input_gates is made, if there are inputs
  std::vector<double> input_gates, recurrent_kernel, recurrent_bias;
  std::vector<double> initial_state[kMostStates], reset_state[kMostStates];
  std::vector<double> outputs, residuals, final_state[kMostStates];
  std::vector<double> d_outputs, d_final_state[kMostStates];
  std::vector<double> d_x, d_input_gates, d_recurrent_gates;
  std::vector<double> d_initial_state[kMostStates], d_reset_state[kMostStates];
  std::vector<double> d_input_kernel, d_bias, d_recurrent_kernel, d_recurrent_bias;

  double Rounded(double value) const { return RoundedTo(dtype, value); }
};

// What the inputs come to, x W + b, in the order of the rows of x, by turns for a layer's groups.
inline std::vector<double> InputGates(const Problem& p, const Arrays& a) {
  const int64_t rows = p.batch * p.steps, columns = p.columns(), ways = p.ways();
  std::vector<double> gates(p.groups * rows * columns);
  for (int64_t row = 0; row < p.groups * rows; ++row) {
    const int64_t group = row / (rows * ways) * ways + row % ways;
    for (int64_t column = 0; column < columns; ++column) {
      double sum = a.bias.empty() ? 0 : a.bias[group * columns + column];
      for (int64_t i = 0; i < p.inputs; ++i) {
        sum += a.x[row / ways * p.inputs + i] *
               a.input_kernel[(group * p.inputs + i) * columns + column];
      }
      gates[row * columns + column] = sum;
    }
  }
  return gates;
}

// Random inputs that the problem's dtype can hold, and results of the right sizes, all zero.
inline Arrays MakeArrays(const Problem& p, int seed) {
  std::mt19937 random(seed);
  const auto normal = [&](int64_t size, double scale) {
    std::normal_distribution<double> values(0, scale);
    std::vector<double> array(size);
    for (double& value : array) value = RoundedTo(p.dtype, values(random));
    return array;
  };
  const int64_t group_rows = p.groups * p.batch, rows = group_rows * p.steps;
  const int64_t states = group_rows * p.hidden, columns = p.columns();
  Arrays a{};
  a.dtype = p.dtype;
  // Lengths from 0 to T, both of them present where there are rows enough.
  a.lengths.assign(group_rows / p.ways(), static_cast<int32_t>(p.steps));
  for (int64_t i = 1; p.has(Part::lengths) && i < group_rows / p.ways(); ++i) {
    a.lengths[i] = i == 1 ? 0 : static_cast<int32_t>(random() % (p.steps + 1));
  }
  if (p.has(Part::inputs)) {
    a.x = normal(rows / p.ways() * p.inputs, 1);
    a.input_kernel = normal(p.groups * p.inputs * columns, 0.7 / std::sqrt(p.inputs));
    if (p.has(Part::bias)) a.bias = normal(p.groups * columns, 0.4);
    a.input_gates = InputGates(p, a);
    a.d_x.resize(a.x.size());
    a.d_input_kernel.resize(a.input_kernel.size());
    a.d_bias.resize(a.bias.size());
  } else {
    a.input_gates = normal(rows * columns, 0.8);
  }
  a.recurrent_kernel = normal(p.groups * p.hidden * columns, 0.9 / std::sqrt(p.hidden));
  a.d_recurrent_kernel.resize(a.recurrent_kernel.size());
  if (p.has(Part::recurrent_bias)) a.recurrent_bias = normal(p.groups * columns, 0.3);
  a.d_recurrent_bias.resize(a.recurrent_bias.size());
  a.d_outputs = normal(rows * p.hidden, 1);
  a.outputs.resize(rows * p.hidden);
  a.residuals.resize(rows * p.cell.residuals * p.hidden);
  a.d_input_gates.resize(rows * columns);
  if (p.cell.reset_after) a.d_recurrent_gates.resize(rows * columns);
  for (int s = 0; s < p.cell.states; ++s) {
    a.initial_state[s] = normal(states, 0.5);
    a.d_final_state[s] = normal(states, 1);
    a.final_state[s].resize(states);
    a.d_initial_state[s].resize(states);
  }
  // A third of the steps: often the first, often two in a row, sometimes past a row's length.
  a.resets.assign(rows, 0);
  for (int64_t i = 0; p.has(Part::resets) && i < rows; ++i) a.resets[i] = random() % 3 == 0;
  for (int s = 0; s < p.cell.states; ++s) {
    a.reset_state[s].assign(states, 0);
    if (p.has(Part::reset_state)) a.reset_state[s] = normal(states, 0.5);
    a.d_reset_state[s].resize(states);
  }
  return a;
}

}  // namespace jp::test
