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
  const int worker;
  const Shape& shape = job.shape;
  const Layout<T> at;
  const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
  const Slice<T> slice, inputs;
  const BatchRows rows;
  float* const passing;
  float* const bias;
  float* const gates_x;  // [steps of a chunk][the worker's rows][columns]
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();

  ForwardKernel(const Job<Forward>& j, int64_t group, int i)
      : job(j),
        worker(i),
        at{j.shape, group},
        slice(j.pass, j.packed, i,
              at.weights(j.arrays.recurrent_kernel, hidden, hidden, Cell::kGates, false)),
        inputs(j.inputs, j.packed_inputs, i,
               at.weights(j.arrays.input_kernel, shape.inputs, hidden, Cell::kGates, false)),
        rows(j.pass, j.shape.batch, i),
        passing(j.passing + i * j.passing_size()),
        bias(j.bias + (j.pass.by_rows() ? 0 : i) * j.columns()),
        gates_x(j.products + (j.pass.by_rows() ? rows.first * j.chunk_steps : i * j.chunk_rows()) *
                                 j.columns()) {}

  float* h(int64_t step, int64_t b) const {  // the state before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* private_state(int64_t b) const { return job.carry + b * padded; }
  int64_t time(int64_t step) const { return shape.reverse ? shape.steps - 1 - step : step; }
  const T* x(int64_t b, int64_t t) const {
    return at.sequence(static_cast<const T*>(job.arrays.x), b, t, shape.inputs);
  }

  void Pack() const {
    slice.Pack();
    inputs.Pack();
    if (!job.pass.by_rows() || worker == 0) PackBias();
    for (int64_t b = rows.first; b < rows.last; ++b) {
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
    const int64_t count = rows.count();
    const auto row = [&](int64_t r) { return x(rows.first + r % count, time(begin + r / count)); };
    const bool alone = steps * shape.batch == 1;
    ForRows<T>(job, worker, steps * count, shape.inputs, row,
               [&](int64_t first, int64_t here, Rows in) {
                 inputs.MultiplyAll(in, here, alone, {bias, 0}, gates_x + first * inputs.width());
               });
  }

  // Where a row's values are at a step. Looked up once for many units, as the compiler must take
  // every store for a change of the job, and would do it again.
  struct Row {
    const float* x;  // x W + b from the slice's first unit on: gate after gate, unit after unit
    const float* h;
    float* next_h;
    float* private_state;
    T* output;
    T* saved;       // null if not wanted
    T* final[2];    // null before the last step
    const T* bias;  // the recurrent one, or null
    int64_t first_unit, hidden;
    bool within;  // the row's length

    const float* projected(int64_t unit) const { return x + (unit - first_unit) * Cell::kGates; }
  };

  Row RowAt(int64_t step, int64_t chunk_step, int64_t b) const {
    const int64_t t = time(step);
    Row row{};
    row.x = gates_x + (chunk_step * rows.count() + b - rows.first) * inputs.width();
    row.h = h(step, b);
    row.next_h = h(step + 1, b);
    if constexpr (Cell::kStates > 1) row.private_state = private_state(b);
    row.output = at.sequence(static_cast<T*>(job.arrays.outputs), b, t, hidden);
    if (job.arrays.saved != nullptr) {
      row.saved = at.sequence(static_cast<T*>(job.arrays.saved), b, t, Cell::kSaved * hidden);
    }
    for (int s = 0; s < Cell::kStates && step + 1 == shape.steps; ++s) {
      row.final[s] = at.state(static_cast<T*>(job.arrays.final[s]), b);
    }
    if constexpr (Cell::kSeparateProduct) {
      row.bias = static_cast<const T*>(job.arrays.recurrent_bias) + at.group * columns;
    }
    row.first_unit = slice.first * kLanes;
    row.hidden = hidden;
    row.within = t < lengths[b];
    return row;
  }

  void Run(int64_t step) const {
    const int64_t chunk_step = step % job.chunk_steps;
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const Row row = RowAt(step, chunk_step, b);
      const int64_t from = unit * kLanes, n = units * kLanes;
      Prefetch(row.projected(from), Cell::kGates * n);
      if constexpr (Cell::kStates > 1) Prefetch<true>(row.private_state + from, n);
      Prefetch<true>(row.next_h + from, n);
      Prefetch<true>(row.output + from, n);
      for (int s = 0; row.saved != nullptr && s < Cell::kSaved; ++s) {
        Prefetch<true>(row.saved + s * hidden + from, n);
      }
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, const float* products) {
      const Row row = RowAt(step, chunk_step, b);
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        WithLanes(row.hidden, unit, [&](auto lanes) {
          if (row.within) {
            Update(row, unit, products + u * Cell::kGates * kLanes, lanes);
          } else {
            Pass(row, unit, lanes);
          }
        });
      }
    };
    slice.ForBlocks(step, h(step, 0), job.row, rows, shape.batch == 1, passing, prefetch, update);
  }

  // One step of a vector of units of a row.
  template <class Lanes>
  [[gnu::always_inline]] static void Update(const Row& row, int64_t unit, const float* products,
                                            Lanes lanes) {
    const float* projected = row.projected(unit);
    Vec x[Cell::kGates], product[Cell::kGates], values[Cell::kSaved + 1];
    for (int g = 0; g < Cell::kGates; ++g) {
      x[g] = Load(projected + g * kLanes);
      product[g] = Load(products + g * kLanes);
      if constexpr (Cell::kSeparateProduct) {
        product[g] += lanes.Load(row.bias + g * row.hidden + unit);
      }
    }
    Vec state[2] = {Load(row.h + unit), Vec{}};
    if constexpr (Cell::kStates > 1) state[1] = Load(row.private_state + unit);
    Cell::template Forward<Math>(x, product, state, values);
    state[0] = RoundTo<T>(state[0]);
    if constexpr (Cell::kStates > 1) Store(row.private_state + unit, state[1]);
    Emit(row, unit, state, state[0], values, lanes);
  }

  // The same past the end of a row: the state stays, the outputs are zero.
  template <class Lanes>
  [[gnu::always_inline]] static void Pass(const Row& row, int64_t unit, Lanes lanes) {
    Vec state[2] = {Load(row.h + unit), Vec{}};
    if constexpr (Cell::kStates > 1) state[1] = Load(row.private_state + unit);
    const Vec values[Cell::kSaved + 1] = {};
    Emit(row, unit, state, Vec{}, values, lanes);
  }

  template <class Lanes>
  [[gnu::always_inline]] static void Emit(const Row& row, int64_t unit, const Vec* state,
                                          const Vec& out, const Vec* values, Lanes lanes) {
    lanes.Store(row.output + unit, out);
    for (int s = 0; row.saved != nullptr && s < Cell::kSaved; ++s) {
      lanes.Store(row.saved + s * row.hidden + unit, values[s]);
    }
    Store(row.next_h + unit, state[0]);
    for (int s = 0; s < Cell::kStates; ++s) {
      if (row.final[s] != nullptr) lanes.Store(row.final[s] + unit, state[s]);
    }
  }

  // What a worker does in a phase; see Job.
  static void Step(const Job<Forward>& job, int worker, int64_t step) {
    const int64_t phase = step % job.phases - 1, chunk = job.chunk_steps;
    const ForwardKernel kernel(job, step / job.phases, worker);
    if (phase < 0) return kernel.Pack();
    if (!job.pass.by_rows()) {
      if (phase % chunk == 0) kernel.Project(phase);
      return kernel.Run(phase);
    }
    const int64_t begin = phase * chunk, left = job.shape.steps - begin;
    kernel.Project(begin);
    for (int64_t i = 0; i < (left < chunk ? left : chunk); ++i) kernel.Run(begin + i);
  }
};

}  // namespace jp::cpu::JP_ISA
