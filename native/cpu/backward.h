// The backward kernel of one instruction set; see forward.h for how it is included.
#pragma once

#include "native/cells/cell.h"
#include "native/cpu/inputs.h"
#include "native/cpu/slice.h"
#include "native/cpu/weights.h"

namespace jp::cpu::JP_ISA {

template <class Cell, class T>
struct BackwardKernel {
  const Job<Backward>& job;
  const int worker;
  const Shape& shape = job.shape;
  const Layout<T> at;
  const int64_t hidden = shape.hidden, columns = Cell::kGates * hidden;
  const Slice<T> slice, inputs;  // the latter's units are input features
  const BatchRows rows;
  float* const passing;
  const WeightGradients<Cell> weights;
  const int32_t* lengths = job.arrays.lengths + at.group * shape.batch;
  const int64_t padded = job.pass.padded_units();

  BackwardKernel(const Job<Backward>& j, int64_t group, int i)
      : job(j),
        worker(i),
        at{j.shape, group},
        slice(j.pass, j.packed, i, at.weights(j.arrays.recurrent_kernel, columns, hidden, 1, true)),
        inputs(j.inputs, j.packed_inputs, i,
               at.weights(j.arrays.input_kernel, columns, shape.inputs, 1, true)),
        rows(j.pass, j.shape.batch, i),
        passing(j.passing + i * j.passing_size()),
        weights(j, i) {}

  float* exchange(int64_t step, int64_t b) const {  // d_product of the step run before `step`
    return job.exchange + ((step & 1) * shape.batch + b) * job.row;
  }
  float* d_state(int s, int64_t b) const { return job.carry + (s * shape.batch + b) * padded; }
  const T* outputs(int64_t b, int64_t t) const {
    return at.sequence(static_cast<const T*>(job.arrays.outputs), b, t, hidden);
  }
  const T* saved(int64_t b, int64_t t) const {
    return at.sequence(static_cast<const T*>(job.arrays.saved), b, t, Cell::kSaved * hidden);
  }

  int64_t time(int64_t step) const { return shape.reverse ? step : shape.steps - 1 - step; }
  T* d_x(int64_t b, int64_t t) const {
    return at.sequence(static_cast<T*>(job.arrays.d_x), b, t, shape.inputs);
  }
  int64_t chunk_row(int64_t step, int64_t b) const {
    return step % job.chunk_steps * shape.batch + b;
  }
  // Where nobody else wants them, two chunks are kept: the other workers may still read the last.
  T* d_gates_x(int64_t step, int64_t b) const {
    if (job.arrays.d_gates_x != nullptr) {
      return at.sequence(static_cast<T*>(job.arrays.d_gates_x), b, time(step), columns);
    }
    const int64_t chunk = step / job.chunk_steps % 2;
    return static_cast<T*>(job.d_gates) + (chunk * job.chunk_rows() + chunk_row(step, b)) * columns;
  }

  void Pack() const {
    slice.Pack();
    if (job.arrays.d_x != nullptr) inputs.Pack();
    for (int64_t b = rows.first; b < rows.last; ++b) {
      for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const T* from = at.state(static_cast<const T*>(job.arrays.d_final[s]), b) + unit;
          Store(d_state(s, b) + unit, LoadPart(from, n));
        }
      }
      // The product reads `depth` values a row; the last of an odd row belongs to no unit.
      if (slice.first == 0 && job.pass.depth > columns) {
        exchange(0, b)[columns] = exchange(1, b)[columns] = 0.0f;
      }
    }
  }

  // Of the steps of a chunk, `begin` to before `end`, the weights' gradients.
  void AddWeights(int64_t begin, int64_t end) const {
    if (!job.sums_weights()) return;
    // Nothing past a row's length counts, whatever it is: not even 0 times it.
    const auto of_row = [&](int64_t r, const auto& from) -> const T* {
      const int64_t b = r % shape.batch, t = time(begin + r / shape.batch);
      return t < lengths[b] ? from(b, t) : nullptr;
    };
    const auto x = [&](int64_t r) {
      return of_row(r, [&](int64_t b, int64_t t) {
        return at.sequence(static_cast<const T*>(job.arrays.x), b, t, shape.inputs);
      });
    };
    const auto h = [&](int64_t r) {
      return of_row(r, [&](int64_t b, int64_t t) { return previous_h(b, t); });
    };
    weights.template Add<T>((end - begin) * shape.batch, begin == 0, end == shape.steps, at.group,
                            x, h);
  }

  // And the inputs' gradients.
  void ProjectBack(int64_t begin, int64_t end) const {
    if (!job.multiplies_inputs()) return;
    const int64_t count = rows.count();
    const auto b = [&](int64_t r) { return rows.first + r % count; };
    const auto step = [&](int64_t r) { return begin + r / count; };
    float* const products = job.products + worker * job.part_rows * job.columns();
    const auto row = [&](int64_t r) { return d_gates_x(step(r), b(r)); };
    const bool alone = (end - begin) * shape.batch == 1;
    ForRows<T>(job, worker, (end - begin) * count, columns, row,
               [&](int64_t first, int64_t here, Rows in) {
                 inputs.MultiplyAll(in, here, alone, {}, products);
                 for (int64_t r = 0; r < here; ++r) {
                   const float* from = products + r * inputs.width();
                   T* to = d_x(b(first + r), time(step(first + r)));
                   for (int64_t unit = inputs.first; unit < inputs.last; ++unit, from += kLanes) {
                     const int n = Lanes(shape.inputs, unit * kLanes);
                     StorePart(to + unit * kLanes, Load(from), n);
                   }
                 }
               });
  }

  // Where a row's values are at a step. Looked up once for many units, as the compiler must take
  // every store for a change of the job, and would do it again.
  struct Row {
    const T* d_output;
    const T* saved;
    const T* h;  // after the step; null where the cell doesn't ask, like the states before it
    const T* previous_h;
    const T* previous_c;
    float* d_state[2];
    float* next;  // d_product for the step run next
    T* d_gates_x;
    T* d_product;     // null if not wanted
    int64_t kept_as;  // for the gradients of the weights, or -1
    int64_t hidden;
    bool within;  // the row's length
  };

  Row RowAt(int64_t step, int64_t b) const {
    const int64_t t = time(step);
    Row row{};
    row.hidden = hidden;
    row.within = t < lengths[b];
    if (row.within) {
      row.d_output = at.sequence(static_cast<const T*>(job.arrays.d_outputs), b, t, hidden);
      if constexpr (Cell::kSaved > 0) row.saved = saved(b, t);
      if constexpr (Cell::kReadsH) row.h = outputs(b, t);
      if constexpr (Cell::kReadsPreviousH) row.previous_h = previous_h(b, t);
      if constexpr (Cell::kStates > 1) row.previous_c = previous_c(b, t);
    }
    for (int s = 0; s < Cell::kStates; ++s) row.d_state[s] = d_state(s, b);
    row.next = exchange(step + 1, b);
    row.d_gates_x = d_gates_x(step, b);
    if (Cell::kSeparateProduct && job.arrays.d_product != nullptr) {
      row.d_product = at.sequence(static_cast<T*>(job.arrays.d_product), b, t, columns);
    }
    row.kept_as = job.sums_weights() ? chunk_row(step, b) : -1;
    return row;
  }

  void Run(int64_t step) const {
    const float* in = step > 0 ? exchange(step, 0) : nullptr;
    if (step == shape.steps) {
      const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
        for (int s = 0; s < Cell::kStates; ++s) {
          Prefetch(d_state(s, b) + unit * kLanes, units * kLanes);
        }
      };
      const auto update = [&](int64_t b, int64_t first, int64_t units, const float* products) {
        for (int64_t u = 0; u < units; ++u) {
          Finish(b, (first + u) * kLanes, Load(products + u * kLanes));
        }
      };
      return slice.ForBlocks(step, in, job.row, rows, shape.batch == 1, passing, prefetch, update);
    }
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const Row row = RowAt(step, b);
      const int64_t from = unit * kLanes, n = units * kLanes;
      for (int s = 0; s < Cell::kStates; ++s) Prefetch<true>(row.d_state[s] + from, n);
      for (int g = 0; g < Cell::kGates; ++g) {
        Prefetch<true>(row.next + g * hidden + from, n);
        Prefetch<true>(row.d_gates_x + g * hidden + from, n);
        if (row.d_product != nullptr) Prefetch<true>(row.d_product + g * hidden + from, n);
      }
      if (!row.within) return;
      Prefetch(row.d_output + from, n);
      for (int s = 0; s < Cell::kSaved; ++s) Prefetch(row.saved + s * hidden + from, n);
      if constexpr (Cell::kReadsH) Prefetch(row.h + from, n);
      if constexpr (Cell::kReadsPreviousH) Prefetch(row.previous_h + from, n);
      if constexpr (Cell::kStates > 1) Prefetch(row.previous_c + from, n);
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, const float* products) {
      const Row row = RowAt(step, b);
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        WithLanes(row.hidden, unit,
                  [&](auto lanes) { Update(row, unit, Load(products + u * kLanes), lanes); });
      }
    };
    slice.ForBlocks(step, in, job.row, rows, shape.batch == 1, passing, prefetch, update);
  }

  // One step of a vector of units of a row; dh is the product's share of its gradient.
  template <class Lanes>
  [[gnu::always_inline]] void Update(const Row& row, int64_t unit, const Vec& dh,
                                     Lanes lanes) const {
    Vec d[2] = {dh + Load(row.d_state[0] + unit), Vec{}};
    Vec dx[Cell::kGates] = {}, dp[Cell::kGates] = {};
    if (row.within) {
      d[0] += lanes.Load(row.d_output + unit);
      if constexpr (Cell::kStates > 1) d[1] = Load(row.d_state[1] + unit);
      Vec values[Cell::kSaved + 1], previous[2] = {}, h = {};
      for (int s = 0; s < Cell::kSaved; ++s) {
        values[s] = lanes.Load(row.saved + s * row.hidden + unit);
      }
      if constexpr (Cell::kReadsPreviousH) previous[0] = lanes.Load(row.previous_h + unit);
      if constexpr (Cell::kStates > 1) previous[1] = lanes.Load(row.previous_c + unit);
      if constexpr (Cell::kReadsH) h = lanes.Load(row.h + unit);
      Cell::template Backward<Math>(values, previous, h, d, dx, dp);
      if constexpr (Cell::kStates > 1) Store(row.d_state[1] + unit, d[1]);
    }
    Store(row.d_state[0] + unit, d[0]);
    if (row.kept_as >= 0) weights.Keep(row.kept_as, unit / kLanes, dx, dp);
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t column = g * row.hidden + unit;
      lanes.Store(row.d_gates_x + column, dx[g]);
      if (row.d_product != nullptr) lanes.Store(row.d_product + column, dp[g]);
      lanes.Store(row.next + column, RoundTo<T>(Cell::kSeparateProduct ? dp[g] : dx[g]));
    }
  }

  // The states before step t of a row: the initial ones before its first.
  bool first(int64_t b, int64_t t) const { return shape.reverse ? t == lengths[b] - 1 : t == 0; }
  int64_t before(int64_t t) const { return shape.reverse ? t + 1 : t - 1; }
  const T* previous_h(int64_t b, int64_t t) const {
    return first(b, t) ? at.state(static_cast<const T*>(job.arrays.initial[0]), b)
                       : outputs(b, before(t));
  }
  const T* previous_c(int64_t b, int64_t t) const {
    return first(b, t) ? at.state(static_cast<const T*>(job.arrays.initial[1]), b)
                       : saved(b, before(t)) + (Cell::kSaved - 1) * hidden;
  }

  // The initial states' gradients.
  void Finish(int64_t b, int64_t unit, const Vec& dh) const {
    const int n = Lanes(hidden, unit);
    for (int s = 0; s < Cell::kStates; ++s) {
      const Vec d = Load(d_state(s, b) + unit) + (s == 0 ? dh : Vec{});
      StorePart(at.state(static_cast<T*>(job.arrays.d_initial[s]), b) + unit, d, n);
    }
  }

  // What a worker does in a phase; see Job.
  static void Step(const Job<Backward>& job, int worker, int64_t step) {
    const int64_t phase = step % job.phases - 1, chunk = job.chunk_steps, steps = job.shape.steps;
    const BackwardKernel kernel(job, step / job.phases, worker);
    if (phase < 0) return kernel.Pack();
    if (!job.pass.by_rows()) {
      if (phase > 0 && (phase == steps || phase % chunk == 0)) {
        const int64_t begin = (phase - 1) / chunk * chunk;
        kernel.ProjectBack(begin, phase);
        kernel.AddWeights(begin, phase);
      }
      return kernel.Run(phase);
    }
    const int64_t begin = phase / 2 * chunk, end = steps - begin < chunk ? steps : begin + chunk;
    if (phase % 2 == 1) return kernel.AddWeights(begin, end);
    for (int64_t i = begin; i < end; ++i) kernel.Run(i);
    kernel.ProjectBack(begin, end);
    if (end == steps) kernel.Run(steps);
  }
};

}  // namespace jp::cpu::JP_ISA
