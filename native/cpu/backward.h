// SPDX-License-Identifier: Apache-2.0
// The backward kernel of one instruction set; see forward.h for how it is included.
//
// Its step `s` is the forward pass's step T - 1 - s. Each step's product with the gates' gradients,
// which the step before it in this order has stored, gives the gradient of h.
#pragma once

#include "native/cpu/input_rows.h"
#include "native/cpu/slice.h"
#include "native/cpu/weight_gradients.h"
#include "native/problem/array_views.h"
#include "native/problem/rows.h"

namespace jp::cpu::JP_ISA {

template <class Cell, class T>
struct BackwardKernel {
  const Workspace<Backward>& space;
  const int worker;
  const Problem& problem = space.problem;
  const ArrayViews at;
  const int64_t batch = problem.batch, hidden = problem.hidden, columns = Cell::kGates * hidden;
  const Rows<int64_t> times;
  const Slice<T> slice, inputs;  // the latter's units are input features
  const BatchRows rows;
  float* const passing;
  const WeightGradients weights;
  const int64_t padded = space.plan.recurrence.PaddedUnits();

  BackwardKernel(const Workspace<Backward>& s, int64_t group, int i)
      : space(s),
        worker(i),
        at{s.problem, group},
        times(at.Times(s.arrays.lengths, s.arrays.resets)),
        slice(s.plan.recurrence, s.packed, i, Transposed(s.arrays.recurrent_kernel, hidden),
              space.RoundedOf(worker)),
        inputs(s.plan.inputs, s.packed_inputs, i,
               Transposed(s.arrays.input_kernel, s.problem.inputs), space.RoundedOf(worker)),
        rows(s.plan.recurrence, batch, i),
        passing(s.passing + i * s.PassingSize()),
        weights(s, i) {}

  KernelView<T> Transposed(const void* const* kernel, int64_t features) const {
    return {at.Weights<const T>(kernel, features), columns, features, true};
  }
  // The recurrent gates' gradients of the step run before `step`.
  float* Exchange(int64_t step, int64_t b) const {
    return space.exchange + ((step & 1) * batch + b) * space.row;
  }
  float* DState(int s, int64_t b) const { return space.carry + (s * batch + b) * padded; }
  float* DResetSum(int s, int64_t b) const { return space.d_reset_sums + (s * batch + b) * padded; }
  int64_t Time(int64_t step) const { return times.Time(problem.steps - 1 - step); }

  const T* Outputs(int64_t b, int64_t t) const {
    return at.Sequence(static_cast<const T*>(space.arrays.outputs), b, t, hidden);
  }
  const T* Residuals(int64_t b, int64_t t) const {
    return at.Sequence(static_cast<const T*>(space.arrays.residuals), b, t,
                       Cell::kResiduals * hidden);
  }
  // State s of row b before time t, at which the row runs.
  const T* PreviousState(int s, int64_t b, int64_t t) const {
    if (times.IsReset(b, t)) {
      if (!problem.has(Part::reset_state)) return static_cast<const T*>(space.zeros);
      return at.State(static_cast<const T*>(space.arrays.reset_state[s]), b);
    }
    if (times.IsFirst(b, t)) {
      return at.State(static_cast<const T*>(space.arrays.initial_state[s]), b);
    }
    const int64_t before = times.Before(t);
    if (s == 0) return Outputs(b, before);
    return Residuals(b, before) + (Cell::kResiduals - Cell::kStates + s) * hidden;
  }

  int64_t ChunkRow(int64_t step, int64_t b) const {
    return step % space.plan.chunk_steps * batch + b;
  }
  // If the caller does not want them, two chunks are kept: workers may still read the last one.
  T* DInputGates(int64_t step, int64_t b) const {
    if (space.arrays.d_input_gates != nullptr) {
      return at.Sequence(static_cast<T*>(space.arrays.d_input_gates), b, Time(step), columns);
    }
    const int64_t chunk = step / space.plan.chunk_steps % 2;
    return static_cast<T*>(space.d_gates) +
           (chunk * space.ChunkRows() + ChunkRow(step, b)) * columns;
  }

  void Pack() const {
    slice.Pack();
    if (space.MultipliesInputs()) inputs.Pack();
    if (worker == 0 && space.ReadsZeros()) std::memset(space.zeros, 0, hidden * sizeof(T));
    for (int64_t b = rows.first; b < rows.last; ++b) {
      for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const T* from = at.State(static_cast<const T*>(space.arrays.d_final_state[s]), b) + unit;
          Store(DState(s, b) + unit, LoadPart(from, n));
          if (problem.has(Part::reset_state)) Store(DResetSum(s, b) + unit, Vec{});
        }
      }
      // The product reads K values of a row; where G*H is odd, the last is padding.
      if (slice.first == 0 && slice.plan.k > columns) {
        Exchange(0, b)[columns] = Exchange(1, b)[columns] = 0.0f;
      }
    }
  }

  // Adds the weights' gradients of steps [begin, end), a chunk.
  void AddWeights(int64_t begin, int64_t end) const {
    if (!space.SumsWeights()) return;
    // Values at steps that a row does not run are not read: 0 times a NaN would count.
    const auto of_row = [&](int64_t r, const auto& from) -> const T* {
      const int64_t b = r % batch, t = Time(begin + r / batch);
      return times.Runs(b, t) ? from(b, t) : nullptr;
    };
    const auto x = [&](int64_t r) {
      return of_row(r, [&](int64_t b, int64_t t) {
        return at.Input(static_cast<const T*>(space.arrays.x), b, t);
      });
    };
    const auto h = [&](int64_t r) {
      return of_row(r, [&](int64_t b, int64_t t) { return PreviousState(0, b, t); });
    };
    weights.Add<T>((end - begin) * batch, begin == 0, end == problem.steps, at.group, x, h);
  }

  // Computes dx = dgates W^T for steps [begin, end). A layer's second group adds its own, now or
  // where both run at once later: rounded first, so that the sum is the same.
  void ProjectBack(int64_t begin, int64_t end) const {
    if (!space.MultipliesInputs()) return;
    const int64_t count = rows.Count();
    const auto b = [&](int64_t r) { return rows.first + r % count; };
    const auto step = [&](int64_t r) { return begin + r / count; };
    float* const products = space.products + worker * space.ProductRows() * space.InputColumns();
    const bool adds = at.way > 0 && !space.SumsParts();
    void* const d_x = at.way > 0 && !adds ? space.d_x_parts : space.arrays.d_x;
    const auto row = [&](int64_t r) { return DInputGates(step(r), b(r)); };
    const bool single_row = (end - begin) * batch == 1;
    ForRows<T>(space, worker, (end - begin) * count, columns, row,
               [&](int64_t first, int64_t here, RowPointers in) {
                 inputs.MultiplyAll(in, here, single_row, {}, products);
                 for (int64_t r = 0; r < here; ++r) {
                   const float* from = products + r * inputs.Width();
                   T* to = at.Input(static_cast<T*>(d_x), b(first + r), Time(step(first + r)));
                   for (int64_t unit = inputs.first; unit < inputs.last; ++unit, from += kLanes) {
                     const int n = Lanes(problem.inputs, unit * kLanes);
                     Vec d = Load(from);
                     if (adds) d = RoundTo<T>(d) + LoadPart(to + unit * kLanes, n);
                     StorePart(to + unit * kLanes, d, n);
                   }
                 }
               });
  }

  // Where a row's values are at a step. Hoisted by hand: stores may alias the workspace, so that
  // the compiler would reload every pointer.
  struct Row {
    const T* d_output;
    const T* residuals;
    const T* h;                        // after the step
    const T* previous[Cell::kStates];  // states before the step
    float* d_state[Cell::kStates];
    float* next;  // the exchange with the step run next
    T* d_input_gates;
    T* d_recurrent_gates;  // null if not wanted
    int64_t kept_as;       // for the gradients of the weights, or -1
    int64_t hidden;
    bool runs;  // else the pointers to what is read are null
  };

  Row RowAt(int64_t step, int64_t b) const {
    const Backward& arrays = space.arrays;
    const int64_t t = Time(step);
    Row row{};
    row.hidden = hidden;
    row.runs = times.Runs(b, t);
    if (row.runs) {
      row.d_output = at.Sequence(static_cast<const T*>(arrays.d_outputs), b, t, hidden);
      if constexpr (Cell::kResiduals > 0) row.residuals = Residuals(b, t);
      if constexpr (Cell::kReadsH) row.h = Outputs(b, t);
      for (int s = Cell::kReadsPreviousH ? 0 : 1; s < Cell::kStates; ++s) {
        row.previous[s] = PreviousState(s, b, t);
      }
    }
    for (int s = 0; s < Cell::kStates; ++s) row.d_state[s] = DState(s, b);
    row.next = Exchange(step + 1, b);
    row.d_input_gates = DInputGates(step, b);
    if (Cell::kResetAfter && arrays.d_recurrent_gates != nullptr) {
      row.d_recurrent_gates = at.Sequence(static_cast<T*>(arrays.d_recurrent_gates), b, t, columns);
    }
    row.kept_as = space.SumsWeights() ? ChunkRow(step, b) : -1;
    return row;
  }

  void RunStep(int64_t step) const {
    const float* in = step > 0 ? Exchange(step, 0) : nullptr;
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const Row row = RowAt(step, b);
      const int64_t from = unit * kLanes, n = units * kLanes;
      for (int s = 0; s < Cell::kStates; ++s) Prefetch<true>(row.d_state[s] + from, n);
      for (int g = 0; g < Cell::kGates; ++g) {
        Prefetch<true>(row.next + g * hidden + from, n);
        Prefetch<true>(row.d_input_gates + g * hidden + from, n);
        if (row.d_recurrent_gates != nullptr) {
          Prefetch<true>(row.d_recurrent_gates + g * hidden + from, n);
        }
      }
      if (!row.runs) return;
      Prefetch(row.d_output + from, n);
      for (int s = 0; s < Cell::kResiduals; ++s) Prefetch(row.residuals + s * hidden + from, n);
      if constexpr (Cell::kReadsH) Prefetch(row.h + from, n);
      for (int s = Cell::kReadsPreviousH ? 0 : 1; s < Cell::kStates; ++s) {
        Prefetch(row.previous[s] + from, n);
      }
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, float* products) {
      const Row row = RowAt(step, b);
      if (StepAfterIsReset(b, step)) TakeFromResetState(b, first, units, products);
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        WithLanes(row.hidden, unit,
                  [&](auto lanes) { Update(row, unit, Load(products + u * kLanes), lanes); });
      }
    };
    slice.ForBlocks(step, in, space.row, rows, batch == 1, false, passing, prefetch, update);
  }

  // One step of a vector of units of a row; dh is the product's share of its gradient.
  template <class Lanes>
  [[gnu::always_inline]] void Update(const Row& row, int64_t unit, const Vec& dh,
                                     Lanes lanes) const {
    Vec d[Cell::kStates] = {dh + Load(row.d_state[0] + unit)};
    Vec d_input[Cell::kGates] = {}, d_recurrent[Cell::kGates] = {};
    if (row.runs) {
      d[0] += lanes.Load(row.d_output + unit);
      for (int s = 1; s < Cell::kStates; ++s) d[s] = Load(row.d_state[s] + unit);
      Vec residuals[Cell::kResiduals + 1], previous[Cell::kStates] = {}, h = {};
      for (int s = 0; s < Cell::kResiduals; ++s) {
        residuals[s] = lanes.Load(row.residuals + s * row.hidden + unit);
      }
      for (int s = Cell::kReadsPreviousH ? 0 : 1; s < Cell::kStates; ++s) {
        previous[s] = lanes.Load(row.previous[s] + unit);
      }
      if constexpr (Cell::kReadsH) h = lanes.Load(row.h + unit);
      Cell::template Backward<Math>(residuals, previous, h, d, d_input, d_recurrent);
      for (int s = 1; s < Cell::kStates; ++s) Store(row.d_state[s] + unit, d[s]);
    }
    Store(row.d_state[0] + unit, d[0]);
    if (row.kept_as >= 0) weights.Keep<Cell>(row.kept_as, unit / kLanes, d_input, d_recurrent);
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t column = g * row.hidden + unit;
      const Vec exchanged = Cell::kResetAfter ? d_recurrent[g] : d_input[g];
      lanes.Store(row.d_input_gates + column, d_input[g]);
      if (row.d_recurrent_gates != nullptr) {
        lanes.Store(row.d_recurrent_gates + column, d_recurrent[g]);
      }
      lanes.Store(row.next + column, RoundTo<T>(exchanged));
    }
  }

  // Whether the step run before `step`, which comes after it in time's order of the row, is reset.
  bool StepAfterIsReset(int64_t b, int64_t step) const {
    return times.IsReset(b, times.Time(problem.steps - step));
  }

  // Gives what would be the gradient of the states after a step, the products included, to the
  // reset state from which the step after it started.
  void TakeFromResetState(int64_t b, int64_t first, int64_t units, float* products) const {
    for (int s = 0; s < Cell::kStates; ++s) {
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        Vec d = Load(DState(s, b) + unit);
        if (s == 0) {
          d += Load(products + u * kLanes);
          Store(products + u * kLanes, Vec{});
        }
        Store(DState(s, b) + unit, Vec{});
        if (!problem.has(Part::reset_state)) continue;
        Store(DResetSum(s, b) + unit, Load(DResetSum(s, b) + unit) + d);
      }
    }
  }

  // The gradients of the initial and of the reset states.
  void Finish() const {
    const int64_t step = problem.steps;
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      for (int s = 0; s < Cell::kStates; ++s) {
        Prefetch(DState(s, b) + unit * kLanes, units * kLanes);
      }
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, float* products) {
      if (StepAfterIsReset(b, step)) TakeFromResetState(b, first, units, products);
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        const int n = Lanes(hidden, unit);
        for (int s = 0; s < Cell::kStates; ++s) {
          const Vec d = Load(DState(s, b) + unit) + (s == 0 ? Load(products + u * kLanes) : Vec{});
          StorePart(at.State(static_cast<T*>(space.arrays.d_initial_state[s]), b) + unit, d, n);
          if (!problem.has(Part::reset_state)) continue;
          StorePart(at.State(static_cast<T*>(space.arrays.d_reset_state[s]), b) + unit,
                    Load(DResetSum(s, b) + unit), n);
        }
      }
    };
    slice.ForBlocks(step, Exchange(step, 0), space.row, rows, batch == 1, false, passing, prefetch,
                    update);
  }

  // Adds a worker's share of the second groups' d_x, after all groups' last phase.
  static void AddParts(const Workspace<Backward>& space, int worker) {
    const Problem& p = space.problem;
    const int64_t values = p.groups / p.ways() * p.batch * p.steps * p.inputs;
    const int64_t vectors = (values + kLanes - 1) / kLanes;
    T* const to = static_cast<T*>(space.arrays.d_x);
    const T* const parts = static_cast<const T*>(space.d_x_parts);
    const int64_t workers = space.plan.groups_at_once;
    for (int64_t v = worker * vectors / workers; v < (worker + 1) * vectors / workers; ++v) {
      const int n = Lanes(values, v * kLanes);
      StorePart(to + v * kLanes, LoadPart(to + v * kLanes, n) + LoadPart(parts + v * kLanes, n), n);
    }
  }

  // What a worker does in a phase; see Workspace.
  static void RunPhase(const Workspace<Backward>& space, int worker, int64_t phase) {
    if (phase == space.problem.groups * space.phases) return AddParts(space, worker);
    const int64_t step = phase % space.phases - 1, chunk = space.plan.chunk_steps;
    const int64_t steps = space.problem.steps;
    const BackwardKernel kernel(space, phase / space.phases, worker);
    if (step < 0) return kernel.Pack();
    if (!space.plan.recurrence.SplitsBatch()) {
      if (step > 0 && (step == steps || step % chunk == 0)) {
        const int64_t begin = (step - 1) / chunk * chunk;
        kernel.ProjectBack(begin, step);
        kernel.AddWeights(begin, step);
      }
      return step == steps ? kernel.Finish() : kernel.RunStep(step);
    }
    const int64_t begin = step / 2 * chunk, end = steps - begin < chunk ? steps : begin + chunk;
    if (step % 2 == 1) return kernel.AddWeights(begin, end);
    for (int64_t i = begin; i < end; ++i) kernel.RunStep(i);
    kernel.ProjectBack(begin, end);
    if (end == steps) kernel.Finish();
  }
};

}  // namespace jp::cpu::JP_ISA
