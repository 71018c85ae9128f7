// The forward kernel of one instruction set. Included by one translation unit for each, after it
// has defined JP_ISA and JP_VECTOR_BYTES; nothing here may use the standard library's templates,
// whose instantiations all units would share.
#pragma once

#include "native/cells/cell.h"
#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

template <class Cell, class T>
struct ForwardKernel {
  const Job<Forward>& job;
  const Shape& shape = job.shape;
  const Layout<T> at;
  const Slice<T> slice;
  const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();
  const bool keep = job.arrays.saved != nullptr;

  ForwardKernel(const Job<Forward>& j, int64_t group, int index)
      : job(j), at{j.shape, group}, slice(j, index) {}

  float* h(int64_t step, int64_t b) const {  // the state before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* private_state(int64_t b) const { return job.carry + b * padded; }
  const T* gates_x(int64_t b, int64_t t) const {
    return at.sequence(static_cast<const T*>(job.arrays.gates_x), b, t, columns);
  }

  T* output(int64_t b, int64_t t) const {
    return at.sequence(static_cast<T*>(job.arrays.outputs), b, t, hidden);
  }
  T* saved(int64_t b, int64_t t) const {
    return at.sequence(static_cast<T*>(job.arrays.saved), b, t, Cell::kSaved * hidden);
  }

  void Pack() const {
    const T* kernel =
        static_cast<const T*>(job.arrays.recurrent_kernel) + at.group * hidden * columns;
    slice.PackColumns(kernel, columns, hidden, hidden);
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const T* from = at.state(static_cast<const T*>(job.arrays.initial[s]), b) + unit;
          Store((s == 0 ? h(0, b) : private_state(b)) + unit, LoadPart(from, n));
        }
      }
    }
  }

  void Run(int64_t step) const {
    const int64_t t = shape.reverse ? shape.steps - 1 - step : step;
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const int64_t from = unit * kLanes, n = units * kLanes;
      for (int g = 0; g < Cell::kGates; ++g) Prefetch(gates_x(b, t) + g * hidden + from, n);
      if constexpr (Cell::kStates > 1) Prefetch<true>(private_state(b) + from, n);
      Prefetch<true>(h(step + 1, b) + from, n);
      Prefetch<true>(output(b, t) + from, n);
      for (int s = 0; keep && s < Cell::kSaved; ++s) {
        Prefetch<true>(saved(b, t) + s * hidden + from, n);
      }
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, const float* products) {
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        const float* product = products + u * Cell::kGates * kLanes;
        WithLanes(hidden, unit, [&](auto lanes) {
          if (t < lengths[b]) {
            Update(step, t, b, unit, product, lanes);
          } else {
            Pass(step, t, b, unit, lanes);
          }
        });
      }
    };
    slice.ForBlocks(h(step, 0), job.row, shape.batch, prefetch, update);
  }

  // One step of a vector of units of a row.
  template <class Lanes>
  void Update(int64_t step, int64_t t, int64_t b, int64_t unit, const float* products,
              Lanes lanes) const {
    const T* row = gates_x(b, t) + unit;
    Vec x[Cell::kGates], product[Cell::kGates], values[Cell::kSaved + 1];
    for (int g = 0; g < Cell::kGates; ++g) {
      x[g] = lanes.Load(row + g * hidden);
      product[g] = Load(products + g * kLanes);
      if constexpr (Cell::kSeparateProduct) {
        const T* bias = static_cast<const T*>(job.arrays.recurrent_bias);
        product[g] += lanes.Load(bias + (at.group * Cell::kGates + g) * hidden + unit);
      }
    }
    Vec state[2] = {Load(h(step, b) + unit), Vec{}};
    if constexpr (Cell::kStates > 1) state[1] = Load(private_state(b) + unit);
    Cell::template Forward<Math>(x, product, state, values);
    state[0] = RoundTo<T>(state[0]);
    if constexpr (Cell::kStates > 1) Store(private_state(b) + unit, state[1]);
    Emit(step, t, b, unit, state, state[0], values, lanes);
  }

  // The same past the end of a row: the state stays, the outputs are zero.
  template <class Lanes>
  void Pass(int64_t step, int64_t t, int64_t b, int64_t unit, Lanes lanes) const {
    Vec state[2] = {Load(h(step, b) + unit), Vec{}};
    if constexpr (Cell::kStates > 1) state[1] = Load(private_state(b) + unit);
    const Vec values[Cell::kSaved + 1] = {};
    Emit(step, t, b, unit, state, Vec{}, values, lanes);
  }

  template <class Lanes>
  void Emit(int64_t step, int64_t t, int64_t b, int64_t unit, const Vec* state, const Vec& out,
            const Vec* values, Lanes lanes) const {
    lanes.Store(output(b, t) + unit, out);
    for (int s = 0; keep && s < Cell::kSaved; ++s) {
      lanes.Store(saved(b, t) + s * hidden + unit, values[s]);
    }
    Store(h(step + 1, b) + unit, state[0]);
    if (step + 1 == shape.steps) {
      for (int s = 0; s < Cell::kStates; ++s) {
        lanes.Store(at.state(static_cast<T*>(job.arrays.final[s]), b) + unit, state[s]);
      }
    }
  }

  static void Step(const Job<Forward>& job, int index, int64_t step) {
    const int64_t phases = job.shape.steps + Forward::kExtraSteps;
    const ForwardKernel kernel(job, step / phases, index);
    const int64_t phase = step % phases;
    if (phase == 0) {
      kernel.Pack();
    } else {
      kernel.Run(phase - 1);
    }
  }
};

}  // namespace jp::cpu::JP_ISA
