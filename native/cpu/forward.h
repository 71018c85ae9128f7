// The forward kernel of one instruction set. Included by one translation unit for each, after it
// has defined JP_ISA and JP_VECTOR_BYTES; nothing here may use the standard library's templates,
// whose instantiations all units would share.
#pragma once

#include "native/cells/cell.h"
#include "native/cpu/inputs.h"
#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

template <class Cell, class T>
struct ForwardKernel {
  const Job<Forward>& job;
  const int index;  // of the slice
  const Shape& shape = job.shape;
  const Layout<T> at;
  const Slice<T> slice, inputs;
  float* const bias;
  float* const gates_x;  // [rows of a chunk][columns]
  const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();
  const bool keep = job.arrays.saved != nullptr;

  ForwardKernel(const Job<Forward>& j, int64_t group, int i)
      : job(j),
        index(i),
        at{j.shape, group},
        slice(j.pass, j.packed, i),
        inputs(j.inputs, j.packed_inputs, i),
        bias(j.bias + i * j.columns()),
        gates_x(j.products + i * j.chunk_steps * j.shape.batch * j.columns()) {}

  float* h(int64_t step, int64_t b) const {  // the state before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* private_state(int64_t b) const { return job.carry + b * padded; }
  int64_t time(int64_t step) const { return shape.reverse ? shape.steps - 1 - step : step; }
  // What x W + b is at a step for a row, from a vector of units on: gate after gate, unit after
  // unit.
  const float* projected(int64_t step, int64_t b, int64_t unit) const {
    const int64_t row = step % job.chunk_steps * shape.batch + b;
    return gates_x + row * inputs.width() + (unit - slice.first) * Cell::kGates * kLanes;
  }
  const T* x(int64_t b, int64_t t) const {
    return at.sequence(static_cast<const T*>(job.arrays.x), b, t, shape.inputs);
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
    const T* input_kernel =
        static_cast<const T*>(job.arrays.input_kernel) + at.group * shape.inputs * columns;
    inputs.PackColumns(input_kernel, columns, shape.inputs, hidden);
    PackBias();
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

  // The bias in the order of the columns, with zeros where the last panel is filled up.
  void PackBias() const {
    const T* from = static_cast<const T*>(job.arrays.bias) + at.group * columns;
    float* to = bias;
    for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
      for (int g = 0; g < Cell::kGates; ++g, to += kLanes) {
        Store(to, LoadPart(from + g * hidden + unit, Lanes(hidden, unit)));
      }
    }
    for (; to < bias + inputs.width(); to += kLanes) Store(to, Vec{});
  }

  // Projects the inputs of a chunk's steps, of which `begin` is the first.
  void Project(int64_t begin) const {
    const int64_t left = shape.steps - begin;
    const int64_t steps = left < job.chunk_steps ? left : job.chunk_steps;
    const auto row = [&](int64_t r) { return x(r % shape.batch, time(begin + r / shape.batch)); };
    ForRows<T>(job, index, steps * shape.batch, shape.inputs, row,
               [&](int64_t first, int64_t rows, Rows in) {
                 inputs.MultiplyAll(in, rows, {bias, 0}, gates_x + first * inputs.width());
               });
  }

  void Run(int64_t step) const {
    const int64_t t = time(step);
    if (step % job.chunk_steps == 0) Project(step);
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const int64_t from = unit * kLanes, n = units * kLanes;
      Prefetch(projected(step, b, unit), Cell::kGates * n);
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
    slice.ForBlocks(step, h(step, 0), job.row, shape.batch, prefetch, update);
  }

  // One step of a vector of units of a row.
  template <class Lanes>
  void Update(int64_t step, int64_t t, int64_t b, int64_t unit, const float* products,
              Lanes lanes) const {
    const float* row = projected(step, b, unit / kLanes);
    Vec x[Cell::kGates], product[Cell::kGates], values[Cell::kSaved + 1];
    for (int g = 0; g < Cell::kGates; ++g) {
      x[g] = Load(row + g * kLanes);
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
