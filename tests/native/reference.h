// The recurrences once more, plainly: one unit at a time, in double, no panels, slices or vectors.
//
// Rounds to the element type exactly where the kernels' contract says that they do: what is stored,
// and what one step hands to the next. Legend: native/cpu/job.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include "native/cpu/job.h"
#include "tests/native/arrays.h"

namespace jp::test {

// One group's view of a sequence or state, in double.
struct View {
  const cpu::Shape& shape;
  int64_t group;

  int64_t row(int64_t b, int64_t t) const {
    const int64_t inside = shape.time_major ? t * shape.batch + b : b * shape.steps + t;
    return group * shape.batch * shape.steps + inside;
  }
  int64_t state(int64_t b, int64_t unit) const {
    return (group * shape.batch + b) * shape.hidden + unit;
  }
};

inline double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Unit {
  double h, c;
  double saved[5];
};

inline Unit ForwardUnit(CellKind kind, const double* x, const double* product, double h, double c) {
  switch (kind) {
    case CellKind::kLstm: {
      const double i = Sigmoid(x[0] + product[0]), f = Sigmoid(x[1] + product[1]);
      const double g = std::tanh(x[2] + product[2]), o = Sigmoid(x[3] + product[3]);
      const double next = f * c + i * g;
      return {o * std::tanh(next), next, {i, f, g, o, next}};
    }
    case CellKind::kGru: {
      const double r = Sigmoid(x[0] + product[0]), z = Sigmoid(x[1] + product[1]);
      const double n = std::tanh(x[2] + r * product[2]);
      return {(1 - z) * n + z * h, 0, {r, z, n, product[2]}};
    }
    case CellKind::kElmanTanh: return {std::tanh(x[0] + product[0]), 0, {}};
    case CellKind::kElmanRelu: return {std::fmax(x[0] + product[0], 0), 0, {}};
  }
  return {};
}

// Gradients of one unit's step, from what its forward step saved.
struct UnitGradient {
  double dx[4], d_product[4];
  double dh, dc;  // of the states before, the product's share of dh left out
};

inline UnitGradient BackwardUnit(CellKind kind, const double* saved, double h_before,
                                 double c_before, double h, double dh, double dc) {
  UnitGradient d{};
  switch (kind) {
    case CellKind::kLstm: {
      const double i = saved[0], f = saved[1], g = saved[2], o = saved[3];
      const double tanh_c = std::tanh(saved[4]);
      dc += dh * o * (1 - tanh_c * tanh_c);
      d.dx[0] = dc * g * i * (1 - i);
      d.dx[1] = dc * c_before * f * (1 - f);
      d.dx[2] = dc * i * (1 - g * g);
      d.dx[3] = dh * tanh_c * o * (1 - o);
      d.dc = dc * f;
      break;
    }
    case CellKind::kGru: {
      const double r = saved[0], z = saved[1], n = saved[2], product_n = saved[3];
      const double before_tanh = dh * (1 - z) * (1 - n * n);
      d.dx[0] = before_tanh * product_n * r * (1 - r);
      d.dx[1] = dh * (h_before - n) * z * (1 - z);
      d.dx[2] = before_tanh;
      d.dh = dh * z;
      d.d_product[0] = d.dx[0], d.d_product[1] = d.dx[1], d.d_product[2] = before_tanh * r;
      return d;
    }
    case CellKind::kElmanTanh: d.dx[0] = dh * (1 - h * h); break;
    case CellKind::kElmanRelu: d.dx[0] = h > 0 ? dh : 0; break;
  }
  for (int g = 0; g < 4; ++g) d.d_product[g] = d.dx[g];
  return d;
}

// Fills outputs, final states and saved values of `a`.
inline void ReferenceForward(const cpu::Shape& s, const CellTraits& cell, Arrays& a) {
  const int64_t H = s.hidden, columns = cell.gates * H;
  for (int64_t n = 0; n < s.groups; ++n) {
    const View at{s, n};
    for (int64_t b = 0; b < s.batch; ++b) {
      std::vector<double> h(H), c(H);
      for (int64_t u = 0; u < H; ++u) {
        h[u] = a.initial[0][at.state(b, u)];
        if (cell.states > 1) c[u] = a.initial[1][at.state(b, u)];
      }
      for (int64_t step = 0; step < s.steps; ++step) {
        const int64_t t = s.reverse ? s.steps - 1 - step : step;
        if (t >= a.lengths[n * s.batch + b]) continue;
        const std::vector<double> before = h;
        for (int64_t u = 0; u < H; ++u) {
          double x[4], product[4];
          for (int g = 0; g < cell.gates; ++g) {
            const int64_t column = g * H + u;
            x[g] = a.gates_x[at.row(b, t) * columns + column];
            product[g] = cell.separate_product ? a.recurrent_bias[n * columns + column] : 0;
            for (int64_t k = 0; k < H; ++k) {
              product[g] += before[k] * a.kernel[(n * H + k) * columns + column];
            }
          }
          const Unit unit = ForwardUnit(cell.kind, x, product, before[u], c[u]);
          h[u] = a.Rounded(unit.h);
          c[u] = unit.c;
          a.outputs[at.row(b, t) * H + u] = h[u];
          for (int v = 0; v < cell.saved; ++v) {
            a.saved[at.row(b, t) * cell.saved * H + v * H + u] = a.Rounded(unit.saved[v]);
          }
        }
      }
      for (int64_t u = 0; u < H; ++u) {
        a.final[0][at.state(b, u)] = h[u];
        if (cell.states > 1) a.final[1][at.state(b, u)] = a.Rounded(c[u]);
      }
    }
  }
}

// Fills d_x from d_gates_x.
inline void ReferenceInputGradient(const cpu::Shape& s, const CellTraits& cell, Arrays& a) {
  const int64_t rows = s.batch * s.steps, columns = cell.gates * s.hidden;
  for (int64_t row = 0; row < s.groups * rows; ++row) {
    for (int64_t i = 0; i < s.inputs; ++i) {
      const double* weights = &a.input_kernel[(row / rows * s.inputs + i) * columns];
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) sum += a.d_gates_x[row * columns + k] * weights[k];
      a.d_x[row * s.inputs + i] = a.Rounded(sum);
    }
  }
}

// Fills the gradients of the weights from d_gates_x and d_product, as far as `a` has room for them.
inline void ReferenceWeightGradients(const cpu::Shape& s, const CellTraits& cell, Arrays& a) {
  if (s.inputs == 0) return;
  const int64_t H = s.hidden, columns = cell.gates * H;
  for (int64_t n = 0; n < s.groups; ++n) {
    const View at{s, n};
    for (int64_t b = 0; b < s.batch; ++b) {
      const int64_t length = a.lengths[n * s.batch + b];
      for (int64_t t = 0; t < length; ++t) {
        const int64_t row = at.row(b, t), before = s.reverse ? t + 1 : t - 1;
        const bool first = s.reverse ? t == length - 1 : t == 0;
        const double* h = first ? &a.initial[0][at.state(b, 0)] : &a.outputs[at.row(b, before) * H];
        const double* dx = &a.d_gates_x[row * columns];
        const double* dp = cell.separate_product ? &a.d_product[row * columns] : dx;
        for (int64_t k = 0; k < columns; ++k) {
          for (int64_t i = 0; i < s.inputs; ++i) {
            a.d_input_kernel[(n * s.inputs + i) * columns + k] += a.x[row * s.inputs + i] * dx[k];
          }
          for (int64_t u = 0; u < H; ++u) a.d_kernel[(n * H + u) * columns + k] += h[u] * dp[k];
          a.d_bias[n * columns + k] += dx[k];
          if (cell.separate_product) a.d_recurrent_bias[n * columns + k] += dp[k];
        }
      }
    }
  }
}

// Fills every gradient of `a` from everything else in it.
inline void ReferenceBackward(const cpu::Shape& s, const CellTraits& cell, Arrays& a) {
  const int64_t H = s.hidden, columns = cell.gates * H, width = cell.saved * H;
  for (int64_t n = 0; n < s.groups; ++n) {
    const View at{s, n};
    for (int64_t b = 0; b < s.batch; ++b) {
      const int64_t length = a.lengths[n * s.batch + b];
      std::vector<double> dh(H), dc(H), d_product(columns);
      for (int64_t u = 0; u < H; ++u) {
        dh[u] = a.d_final[0][at.state(b, u)];
        if (cell.states > 1) dc[u] = a.d_final[1][at.state(b, u)];
      }
      for (int64_t i = 0; i < length; ++i) {
        const int64_t t = s.reverse ? i : length - 1 - i;
        const bool first = i == length - 1;
        const int64_t before = s.reverse ? t + 1 : t - 1;
        for (int64_t u = 0; u < H; ++u) {
          double saved[5] = {}, h_before = a.initial[0][at.state(b, u)], c_before = 0;
          if (cell.states > 1) c_before = a.initial[1][at.state(b, u)];
          if (!first) {
            h_before = a.outputs[at.row(b, before) * H + u];
            if (cell.states > 1) c_before = a.saved[at.row(b, before) * width + 4 * H + u];
          }
          for (int v = 0; v < cell.saved; ++v) saved[v] = a.saved[at.row(b, t) * width + v * H + u];
          const double h = a.outputs[at.row(b, t) * H + u];
          const UnitGradient d = BackwardUnit(cell.kind, saved, h_before, c_before, h,
                                              dh[u] + a.d_outputs[at.row(b, t) * H + u], dc[u]);
          for (int g = 0; g < cell.gates; ++g) {
            const int64_t column = g * H + u;
            a.d_gates_x[at.row(b, t) * columns + column] = a.Rounded(d.dx[g]);
            d_product[column] = a.Rounded(d.d_product[g]);
            if (cell.separate_product) {
              a.d_product[at.row(b, t) * columns + column] = d_product[column];
            }
          }
          dh[u] = d.dh;
          dc[u] = d.dc;
        }
        for (int64_t u = 0; u < H; ++u) {
          for (int64_t column = 0; column < columns; ++column) {
            dh[u] += d_product[column] * a.kernel[(n * H + u) * columns + column];
          }
        }
      }
      for (int64_t u = 0; u < H; ++u) {
        a.d_initial[0][at.state(b, u)] = a.Rounded(dh[u]);
        if (cell.states > 1) a.d_initial[1][at.state(b, u)] = a.Rounded(dc[u]);
      }
    }
  }
  ReferenceInputGradient(s, cell, a);
  ReferenceWeightGradients(s, cell, a);
}

}  // namespace jp::test
