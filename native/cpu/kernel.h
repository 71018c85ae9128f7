// The kernels of one instruction set. Included by one translation unit for each, after it has
// defined JP_ISA and JP_VECTOR_BYTES; nothing here may use the standard library's templates, whose
// instantiations all units would share.
#pragma once

#include "native/cells/cell.h"
#include "native/cpu/isa.h"
#include "native/cpu/job.h"
#include "native/cpu/product.h"
#include "native/cpu/simd.h"

namespace jp::cpu::JP_ISA {

// Where things are in the arrays of one group.
template <class T>
struct Layout {
  const Shape& shape;
  int64_t group;

  int64_t sequence_row(int64_t b, int64_t t) const {
    const int64_t row = shape.time_major ? t * shape.batch + b : b * shape.steps + t;
    return group * shape.batch * shape.steps + row;
  }
  template <class P>
  P* sequence(P* base, int64_t b, int64_t t, int64_t features) const {
    return base + sequence_row(b, t) * features;
  }
  template <class P>
  P* state(P* base, int64_t b) const {
    return base + (group * shape.batch + b) * shape.hidden;
  }
};

static inline int Lanes(int64_t hidden, int64_t unit) {
  const int64_t left = hidden - unit;
  return left >= kLanes ? kLanes : left > 0 ? static_cast<int>(left) : 0;
}

template <class Cell, class T>
struct ForwardKernel {
  static constexpr int kVectors = ForwardVectors(Cell::kGates);
  static constexpr int kVectorsPerGate = kVectors / Cell::kGates;
  static constexpr int kPanelUnits = kVectorsPerGate * kLanes;

  const Job<Forward>& job;
  const Shape& shape = job.shape;
  const Layout<T> at;
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();

  ForwardKernel(const Job<Forward>& j, int64_t group) : job(j), at{j.shape, group} {}

  T* panel(int64_t p) const {
    return static_cast<T*>(job.packed) + p * job.pass.depth * kVectors * kLanes;
  }
  float* h(int64_t step, int64_t b) const {  // the state before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* private_state(int64_t b) const { return job.carry + b * padded; }

  void Pack(int64_t first, int64_t last) const {
    const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
    const T* kernel =
        static_cast<const T*>(job.arrays.recurrent_kernel) + at.group * hidden * columns;
    for (int64_t k = 0; k < job.pass.depth; ++k) {
      for (int64_t p = first; p < last; ++p) {
        for (int c = 0; c < kVectors; ++c) {
          const int64_t unit = p * kPanelUnits + c % kVectorsPerGate * kLanes;
          const int n = k < hidden ? Lanes(hidden, unit) : 0;
          const T* from = kernel + k * columns + c / kVectorsPerGate * hidden + unit;
          PackVector<kVectors>(panel(p), k, c, from, n);
        }
      }
    }
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t unit = first * kPanelUnits; unit < last * kPanelUnits; unit += kLanes) {
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const T* from = at.state(static_cast<const T*>(job.arrays.initial[s]), b) + unit;
          Store((s == 0 ? h(0, b) : private_state(b)) + unit, n ? LoadPart(from, n) : Vec{});
        }
      }
    }
  }

  // One step of one panel for `rows` rows from b0.
  void Block(int64_t step, int64_t p, int64_t b0, int rows) const {
    const int64_t hidden = shape.hidden;
    Vec products[kBlockRows][kVectors];
    for (int c = 0; c < kVectors; ++c) {
      const int64_t unit = p * kPanelUnits + c % kVectorsPerGate * kLanes;
      const T* bias = static_cast<const T*>(job.arrays.recurrent_bias);
      const int n = bias == nullptr ? 0 : Lanes(hidden, unit);
      const int64_t column = (at.group * Cell::kGates + c / kVectorsPerGate) * hidden + unit;
      const Vec start = n ? LoadPart(bias + column, n) : Vec{};
      for (int r = 0; r < rows; ++r) products[r][c] = start;
    }
    Multiply<kVectors>(h(step, b0), job.row, rows, job.pass.depth, panel(p), products);
    const int64_t t = shape.reverse ? shape.steps - 1 - step : step;
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kVectorsPerGate; ++v) {
        Vec product[Cell::kGates];
        for (int g = 0; g < Cell::kGates; ++g) product[g] = products[r][g * kVectorsPerGate + v];
        Update(step, t, b0 + r, p * kPanelUnits + v * kLanes, product);
      }
    }
  }

  void Update(int64_t step, int64_t t, int64_t b, int64_t unit, const Vec* product) const {
    const int64_t hidden = shape.hidden;
    const int n = Lanes(hidden, unit);
    if (n == 0) return;
    Vec state[2] = {Load(h(step, b) + unit), Vec{}};
    if constexpr (Cell::kStates > 1) state[1] = Load(private_state(b) + unit);
    T* output = at.sequence(static_cast<T*>(job.arrays.outputs), b, t, hidden) + unit;
    T* saved = at.sequence(static_cast<T*>(job.arrays.saved), b, t, Cell::kSaved * hidden) + unit;
    const bool keep = job.arrays.saved != nullptr;
    if (t < lengths[b]) {
      const T* row =
          at.sequence(static_cast<const T*>(job.arrays.gates_x), b, t, Cell::kGates * hidden) +
          unit;
      Vec x[Cell::kGates], values[Cell::kSaved + 1];
      for (int g = 0; g < Cell::kGates; ++g) x[g] = LoadPart(row + g * hidden, n);
      Cell::template Forward<Math>(x, product, state, values);
      state[0] = RoundTo<T>(state[0]);
      StorePart(output, state[0], n);
      if constexpr (Cell::kStates > 1) Store(private_state(b) + unit, state[1]);
      for (int s = 0; keep && s < Cell::kSaved; ++s) StorePart(saved + s * hidden, values[s], n);
    } else {
      StorePart(output, Vec{}, n);
      for (int s = 0; keep && s < Cell::kSaved; ++s) StorePart(saved + s * hidden, Vec{}, n);
    }
    Store(h(step + 1, b) + unit, state[0]);
    if (step + 1 == shape.steps) {
      for (int s = 0; s < Cell::kStates; ++s) {
        StorePart(at.state(static_cast<T*>(job.arrays.final[s]), b) + unit, state[s], n);
      }
    }
  }

  static void Step(const Job<Forward>& job, int slice, int64_t step) {
    const int64_t phases = job.shape.steps + Forward::kExtraSteps;
    const ForwardKernel kernel(job, step / phases);
    const int64_t first = job.pass.first_panel(slice), last = job.pass.first_panel(slice + 1);
    const int64_t phase = step % phases;
    if (phase == 0) return kernel.Pack(first, last);
    for (int64_t p = first; p < last; ++p) {
      for (int64_t b = 0; b < job.shape.batch; b += kBlockRows) {
        const int64_t left = job.shape.batch - b;
        kernel.Block(phase - 1, p, b, left < kBlockRows ? static_cast<int>(left) : kBlockRows);
      }
    }
  }
};

template <class Cell, class T>
struct BackwardKernel {
  static constexpr int kVectors = kBackwardVectors;
  static constexpr int kPanelUnits = kVectors * kLanes;

  const Job<Backward>& job;
  const Shape& shape = job.shape;
  const Layout<T> at;
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();

  BackwardKernel(const Job<Backward>& j, int64_t group) : job(j), at{j.shape, group} {}

  T* panel(int64_t p) const {
    return static_cast<T*>(job.packed) + p * job.pass.depth * kVectors * kLanes;
  }
  float* d_product(int64_t step, int64_t b) const {  // of the step run before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* d_state(int s, int64_t b) const { return job.carry + (s * shape.batch + b) * padded; }

  void Pack(int64_t first, int64_t last) const {
    const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
    const T* kernel =
        static_cast<const T*>(job.arrays.recurrent_kernel) + at.group * hidden * columns;
    for (int64_t p = first; p < last; ++p) {
      for (int c = 0; c < kVectors; ++c) {
        const int64_t unit = p * kPanelUnits + c * kLanes;
        const T* rows = kernel + unit * columns;
        PackTransposed<kVectors>(panel(p), job.pass.depth, c, rows, columns, Lanes(hidden, unit));
      }
    }
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t unit = first * kPanelUnits; unit < last * kPanelUnits; unit += kLanes) {
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const T* from = at.state(static_cast<const T*>(job.arrays.d_final[s]), b) + unit;
          Store(d_state(s, b) + unit, n ? LoadPart(from, n) : Vec{});
        }
      }
      // The product reads `depth` values a row; the last of an odd row belongs to no unit.
      if (first == 0 && job.pass.depth > columns) {
        d_product(0, b)[columns] = d_product(1, b)[columns] = 0.0f;
      }
    }
  }

  // One step of one panel for `rows` rows from b0.
  void Block(int64_t step, int64_t p, int64_t b0, int rows) const {
    Vec dh[kBlockRows][kVectors];
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kVectors; ++v) dh[r][v] = Vec{};
    }
    if (step > 0) {
      Multiply<kVectors>(d_product(step, b0), job.row, rows, job.pass.depth, panel(p), dh);
    }
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t unit = p * kPanelUnits + v * kLanes;
        if (step < shape.steps) {
          Update(step, b0 + r, unit, dh[r][v]);
        } else {
          Finish(b0 + r, unit, dh[r][v]);
        }
      }
    }
  }

  void Update(int64_t step, int64_t b, int64_t unit, Vec dh) const {
    const int64_t hidden = shape.hidden;
    const int n = Lanes(hidden, unit);
    if (n == 0) return;
    const int64_t t = shape.reverse ? step : shape.steps - 1 - step;
    T* dx_row =
        at.sequence(static_cast<T*>(job.arrays.d_gates_x), b, t, Cell::kGates * hidden) + unit;
    T* dp_row =
        at.sequence(static_cast<T*>(job.arrays.d_product), b, t, Cell::kGates * hidden) + unit;
    float* exchange = d_product(step + 1, b) + unit;
    Vec d[2] = {dh + Load(d_state(0, b) + unit), Vec{}};
    Vec dx[Cell::kGates] = {}, dp[Cell::kGates] = {};
    if (t < lengths[b]) {
      d[0] += LoadPart(
          at.sequence(static_cast<const T*>(job.arrays.d_outputs), b, t, hidden) + unit, n);
      if constexpr (Cell::kStates > 1) d[1] = Load(d_state(1, b) + unit);
      Vec saved[Cell::kSaved + 1], previous[2] = {};
      const T* saved_row =
          at.sequence(static_cast<const T*>(job.arrays.saved), b, t, Cell::kSaved * hidden) + unit;
      for (int s = 0; s < Cell::kSaved; ++s) saved[s] = LoadPart(saved_row + s * hidden, n);
      LoadPrevious(b, t, unit, n, previous);
      Vec h = {};
      if constexpr (Cell::kReadsH) {
        h = LoadPart(at.sequence(static_cast<const T*>(job.arrays.outputs), b, t, hidden) + unit,
                     n);
      }
      Cell::template Backward<Math>(saved, previous, h, d, dx, dp);
      if constexpr (Cell::kStates > 1) Store(d_state(1, b) + unit, d[1]);
    }
    Store(d_state(0, b) + unit, d[0]);
    for (int g = 0; g < Cell::kGates; ++g) {
      StorePart(dx_row + g * hidden, dx[g], n);
      if constexpr (Cell::kSeparateProduct) StorePart(dp_row + g * hidden, dp[g], n);
      StorePart(exchange + g * hidden, RoundTo<T>(Cell::kSeparateProduct ? dp[g] : dx[g]), n);
    }
  }

  void LoadPrevious(int64_t b, int64_t t, int64_t unit, int n, Vec* previous) const {
    const int64_t hidden = shape.hidden;
    const bool first = shape.reverse ? t == lengths[b] - 1 : t == 0;
    const int64_t before = shape.reverse ? t + 1 : t - 1;
    if constexpr (Cell::kReadsPreviousH) {
      const T* h = first
                       ? at.state(static_cast<const T*>(job.arrays.initial[0]), b)
                       : at.sequence(static_cast<const T*>(job.arrays.outputs), b, before, hidden);
      previous[0] = LoadPart(h + unit, n);
    }
    if constexpr (Cell::kStates > 1) {
      const T* c = first ? at.state(static_cast<const T*>(job.arrays.initial[1]), b)
                         : at.sequence(static_cast<const T*>(job.arrays.saved), b, before,
                                       Cell::kSaved * hidden) +
                               (Cell::kSaved - 1) * hidden;
      previous[1] = LoadPart(c + unit, n);
    }
  }

  void Finish(int64_t b, int64_t unit, Vec dh) const {
    const int n = Lanes(shape.hidden, unit);
    if (n == 0) return;
    for (int s = 0; s < Cell::kStates; ++s) {
      const Vec d = Load(d_state(s, b) + unit) + (s == 0 ? dh : Vec{});
      StorePart(at.state(static_cast<T*>(job.arrays.d_initial[s]), b) + unit, d, n);
    }
  }

  static void Step(const Job<Backward>& job, int slice, int64_t step) {
    const int64_t phases = job.shape.steps + Backward::kExtraSteps;
    const BackwardKernel kernel(job, step / phases);
    const int64_t first = job.pass.first_panel(slice), last = job.pass.first_panel(slice + 1);
    const int64_t phase = step % phases;
    if (phase == 0) return kernel.Pack(first, last);
    for (int64_t p = first; p < last; ++p) {
      for (int64_t b = 0; b < job.shape.batch; b += kBlockRows) {
        const int64_t left = job.shape.batch - b;
        kernel.Block(phase - 1, p, b, left < kBlockRows ? static_cast<int>(left) : kBlockRows);
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
