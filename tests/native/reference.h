// SPDX-License-Identifier: Apache-2.0
// The recurrences once more, plainly: one unit at a time, in double, no panels, slices or vectors.
//
// Rounds to the element type exactly where the kernels' contract says that they do: what is stored,
// and what one step hands to the next.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "native/problem/problem.h"
#include "tests/native/arrays.h"

namespace jp::test {

// One group's view of a sequence or state.
struct View {
  const Problem& problem;
  int64_t group;

  int64_t layer() const { return group / problem.ways(); }
  bool reverse() const { return problem.Reverses(group); }
  // Of a layer's own inputs, of a group's own resets, and of all other sequences.
  int64_t x_row(int64_t b, int64_t t) const { return layer() * group_rows() + in_group(b, t); }
  int64_t flag(int64_t b, int64_t t) const { return group * group_rows() + in_group(b, t); }
  int64_t row(int64_t b, int64_t t) const {
    return x_row(b, t) * problem.ways() + group % problem.ways();
  }
  int64_t length_of(int64_t b) const { return layer() * problem.batch + b; }
  int64_t state(int64_t b, int64_t unit) const {
    return (group * problem.batch + b) * problem.hidden + unit;
  }

 private:
  int64_t group_rows() const { return problem.batch * problem.steps; }
  int64_t in_group(int64_t b, int64_t t) const {
    return problem.time_major ? t * problem.batch + b : b * problem.steps + t;
  }
};

inline double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Unit {
  double state[kMostStates];
  double residuals[5];
};

// The step of one unit of a cell, whose gates are of the inputs, `x`, and of h, `r`.
inline Unit ForwardUnit(CellKind kind, const double* x, const double* r, const double* state) {
  switch (kind) {
    case CellKind::kLstm: {
      const double i = Sigmoid(x[0] + r[0]), f = Sigmoid(x[1] + r[1]);
      const double g = std::tanh(x[2] + r[2]), o = Sigmoid(x[3] + r[3]);
      const double c = f * state[1] + i * g;
      return {{o * std::tanh(c), c}, {i, f, g, o, c}};
    }
    case CellKind::kGru: {
      const double reset = Sigmoid(x[0] + r[0]), z = Sigmoid(x[1] + r[1]);
      const double n = std::tanh(x[2] + reset * r[2]);
      return {{(1 - z) * n + z * state[0]}, {reset, z, n, r[2]}};
    }
    case CellKind::kElmanTanh: return {{std::tanh(x[0] + r[0])}, {}};
    case CellKind::kElmanRelu: return {{std::fmax(x[0] + r[0], 0)}, {}};
  }
  return {};
}

struct UnitGradient {
  double input_gates[4], recurrent_gates[4];
  double state[kMostStates];  // of the states before, without the product's share
};

// Gradients of one unit's step, from what its forward step stored; `d` is of the states after.
inline UnitGradient BackwardUnit(CellKind kind, const double* residuals, const double* previous,
                                 double h, const double* d) {
  UnitGradient to{};
  switch (kind) {
    case CellKind::kLstm: {
      const double i = residuals[0], f = residuals[1], g = residuals[2], o = residuals[3];
      const double tanh_c = std::tanh(residuals[4]);
      const double dc = d[1] + d[0] * o * (1 - tanh_c * tanh_c);
      to.input_gates[0] = dc * g * i * (1 - i);
      to.input_gates[1] = dc * previous[1] * f * (1 - f);
      to.input_gates[2] = dc * i * (1 - g * g);
      to.input_gates[3] = d[0] * tanh_c * o * (1 - o);
      to.state[1] = dc * f;
      break;
    }
    case CellKind::kGru: {
      const double reset = residuals[0], z = residuals[1], n = residuals[2];
      const double dn = d[0] * (1 - z) * (1 - n * n);
      to.input_gates[0] = dn * residuals[3] * reset * (1 - reset);
      to.input_gates[1] = d[0] * (previous[0] - n) * z * (1 - z);
      to.input_gates[2] = dn;
      to.state[0] = d[0] * z;
      break;
    }
    case CellKind::kElmanTanh: to.input_gates[0] = d[0] * (1 - h * h); break;
    case CellKind::kElmanRelu: to.input_gates[0] = h > 0 ? d[0] : 0; break;
  }
  for (int g = 0; g < 4; ++g) to.recurrent_gates[g] = to.input_gates[g];
  if (kind == CellKind::kGru) to.recurrent_gates[2] *= residuals[0];
  return to;
}

// Fills outputs, final states and residuals of `a`.
inline void ReferenceForward(const Problem& p, Arrays& a) {
  const int64_t H = p.hidden, columns = p.columns();
  const int R = p.cell.residuals, S = p.cell.states;
  for (int64_t n = 0; n < p.groups; ++n) {
    const View at{p, n};
    for (int64_t b = 0; b < p.batch; ++b) {
      std::vector<std::vector<double>> state(kMostStates, std::vector<double>(H));
      const auto start_from = [&](const std::vector<double>* states) {
        for (int s = 0; s < S; ++s) {
          for (int64_t u = 0; u < H; ++u) state[s][u] = states[s][at.state(b, u)];
        }
      };
      start_from(a.initial_state);
      for (int64_t step = 0; step < p.steps; ++step) {
        const int64_t t = at.reverse() ? p.steps - 1 - step : step;
        if (t >= a.lengths[at.length_of(b)]) continue;
        const int64_t row = at.row(b, t);
        if (a.resets[at.flag(b, t)]) start_from(a.reset_state);
        const std::vector<double> h = state[0];
        for (int64_t u = 0; u < H; ++u) {
          double x[4], r[4], before[kMostStates];
          for (int g = 0; g < p.cell.gates; ++g) {
            const int64_t column = g * H + u;
            x[g] = a.input_gates[row * columns + column];
            r[g] = a.recurrent_bias.empty() ? 0 : a.recurrent_bias[n * columns + column];
            for (int64_t k = 0; k < H; ++k) {
              r[g] += h[k] * a.recurrent_kernel[(n * H + k) * columns + column];
            }
          }
          for (int s = 0; s < S; ++s) before[s] = state[s][u];
          const Unit unit = ForwardUnit(p.cell.kind, x, r, before);
          for (int s = 0; s < S; ++s)
            state[s][u] = s == 0 ? a.Rounded(unit.state[0]) : unit.state[s];
          a.outputs[row * H + u] = state[0][u];
          for (int v = 0; v < R; ++v) {
            a.residuals[(row * R + v) * H + u] = a.Rounded(unit.residuals[v]);
          }
        }
      }
      for (int s = 0; s < S; ++s) {
        for (int64_t u = 0; u < H; ++u) a.final_state[s][at.state(b, u)] = a.Rounded(state[s][u]);
      }
    }
  }
}

// The states before step t, which row b runs, as the forward pass stored them: those of unit u.
inline void StatesBefore(const View& at, const Arrays& a, int64_t b, int64_t t, int64_t u,
                         double* states) {
  const Problem& p = at.problem;
  const int R = p.cell.residuals, S = p.cell.states;
  const int64_t length = a.lengths[at.length_of(b)];
  const bool reset = a.resets[at.flag(b, t)], first = t == (at.reverse() ? length - 1 : 0);
  for (int s = 0; s < S; ++s) {
    if (reset || first) {
      states[s] = (reset ? a.reset_state : a.initial_state)[s][at.state(b, u)];
      continue;
    }
    const int64_t row = at.row(b, at.reverse() ? t + 1 : t - 1);
    states[s] =
        s == 0 ? a.outputs[row * p.hidden + u] : a.residuals[(row * R + R - S + s) * p.hidden + u];
  }
}

// Fills d_x from d_input_gates: the sum of what a layer's groups give, each rounded.
inline void ReferenceInputGradient(const Problem& p, Arrays& a) {
  if (a.d_x.empty()) return;
  const int64_t rows = p.batch * p.steps * p.ways(), columns = p.columns();
  for (int64_t row = 0; row < p.groups * p.batch * p.steps; ++row) {
    const int64_t group = row / rows * p.ways() + row % p.ways();
    for (int64_t i = 0; i < p.inputs; ++i) {
      const double* weights = &a.input_kernel[(group * p.inputs + i) * columns];
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) sum += a.d_input_gates[row * columns + k] * weights[k];
      double& d_x = a.d_x[row / p.ways() * p.inputs + i];
      d_x = a.Rounded(d_x + a.Rounded(sum));
    }
  }
}

// Fills the gradients of the weights from those of the gates, as far as `a` has room for them.
inline void ReferenceWeightGradients(const Problem& p, Arrays& a) {
  const int64_t H = p.hidden, I = a.x.empty() ? 0 : p.inputs, columns = p.columns();
  for (int64_t n = 0; n < p.groups; ++n) {
    const View at{p, n};
    for (int64_t b = 0; b < p.batch; ++b) {
      for (int64_t t = 0; t < a.lengths[at.length_of(b)]; ++t) {
        const int64_t row = at.row(b, t);
        std::vector<double> h(H);
        for (int64_t u = 0; u < H; ++u) {
          double states[kMostStates];
          StatesBefore(at, a, b, t, u, states);
          h[u] = states[0];
        }
        const double* di = &a.d_input_gates[row * columns];
        const double* dr = p.cell.reset_after ? &a.d_recurrent_gates[row * columns] : di;
        for (int64_t k = 0; k < columns; ++k) {
          for (int64_t i = 0; i < I; ++i) {
            a.d_input_kernel[(n * I + i) * columns + k] += a.x[at.x_row(b, t) * I + i] * di[k];
          }
          for (int64_t u = 0; u < H; ++u) {
            a.d_recurrent_kernel[(n * H + u) * columns + k] += h[u] * dr[k];
          }
          if (!a.d_bias.empty()) a.d_bias[n * columns + k] += di[k];
          if (!a.d_recurrent_bias.empty()) a.d_recurrent_bias[n * columns + k] += dr[k];
        }
      }
    }
  }
}

// Fills every gradient of `a` from everything else in it.
inline void ReferenceBackward(const Problem& p, Arrays& a) {
  const int64_t H = p.hidden, columns = p.columns();
  const int R = p.cell.residuals, S = p.cell.states;
  for (int64_t n = 0; n < p.groups; ++n) {
    const View at{p, n};
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t length = a.lengths[at.length_of(b)];
      std::vector<std::vector<double>> d(kMostStates, std::vector<double>(H));
      for (int s = 0; s < S; ++s) {
        for (int64_t u = 0; u < H; ++u) d[s][u] = a.d_final_state[s][at.state(b, u)];
      }
      std::vector<double> d_recurrent(columns);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = at.reverse() ? i : length - 1 - i, row = at.row(b, t);
        for (int64_t u = 0; u < H; ++u) {
          double residuals[5] = {}, previous[kMostStates], d_unit[kMostStates];
          StatesBefore(at, a, b, t, u, previous);
          for (int v = 0; v < R; ++v) residuals[v] = a.residuals[(row * R + v) * H + u];
          for (int s = 0; s < S; ++s) d_unit[s] = d[s][u];
          d_unit[0] += a.d_outputs[row * H + u];
          const UnitGradient to =
              BackwardUnit(p.cell.kind, residuals, previous, a.outputs[row * H + u], d_unit);
          for (int g = 0; g < p.cell.gates; ++g) {
            const int64_t column = g * H + u;
            a.d_input_gates[row * columns + column] = a.Rounded(to.input_gates[g]);
            d_recurrent[column] = a.Rounded(to.recurrent_gates[g]);
            if (p.cell.reset_after) {
              a.d_recurrent_gates[row * columns + column] = d_recurrent[column];
            }
          }
          for (int s = 0; s < S; ++s) d[s][u] = to.state[s];
        }
        for (int64_t u = 0; u < H; ++u) {
          for (int64_t column = 0; column < columns; ++column) {
            d[0][u] += d_recurrent[column] * a.recurrent_kernel[(n * H + u) * columns + column];
          }
        }
        for (int s = 0; s < S && a.resets[at.flag(b, t)]; ++s) {
          for (int64_t u = 0; u < H; ++u) {
            a.d_reset_state[s][at.state(b, u)] += d[s][u];
            d[s][u] = 0;
          }
        }
      }
      for (int s = 0; s < S; ++s) {
        for (int64_t u = 0; u < H; ++u) {
          a.d_initial_state[s][at.state(b, u)] = a.Rounded(d[s][u]);
          a.d_reset_state[s][at.state(b, u)] = a.Rounded(a.d_reset_state[s][at.state(b, u)]);
        }
      }
    }
  }
  ReferenceInputGradient(p, a);
  ReferenceWeightGradients(p, a);
}

}  // namespace jp::test
