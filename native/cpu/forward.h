// SPDX-License-Identifier: Apache-2.0
// The forward kernel of one instruction set. Included by one translation unit for each, after it
// has defined JP_ISA and JP_VECTOR_BYTES; nothing here may use the standard library's templates,
// whose instantiations all units would share.
#pragma once

#include "native/cpu/input_rows.h"
#include "native/cpu/slice.h"
#include "native/problem/array_views.h"
#include "native/problem/rows.h"

namespace jp::cpu::JP_ISA {

template <class Cell, class T>
struct ForwardKernel {
  static constexpr int kPrivateStates = Cell::kStates - 1;  // all but h

  const Workspace<Forward>& space;
  const int worker;
  const Problem& problem = space.problem;
  const ArrayViews at;
  const int64_t batch = problem.batch, hidden = problem.hidden, columns = Cell::kGates * hidden;
  const Rows<int64_t> times;
  const Slice<T> slice, inputs;
  const BatchRows rows;
  float* const passing;
  float* const bias;
  float* const recurrent_bias;
  float* const input_gates;  // [steps of a chunk][the worker's rows][columns]
  const int64_t padded = space.plan.recurrence.PaddedUnits();

  ForwardKernel(const Workspace<Forward>& s, int64_t group, int i)
      : space(s),
        worker(i),
        at{s.problem, group},
        times(at.Times(s.arrays.lengths, s.arrays.resets)),
        slice(SliceOf(s.plan.recurrence, s.packed, s.arrays.recurrent_kernel, hidden)),
        inputs(SliceOf(s.plan.inputs, s.packed_inputs, s.arrays.input_kernel, s.problem.inputs)),
        rows(s.plan.recurrence, batch, i),
        passing(s.passing + i * s.PassingSize()),
        bias(s.bias + BiasOf(s, i)),
        recurrent_bias(s.recurrent_bias + (Cell::kResetAfter ? BiasOf(s, i) : 0)),
        input_gates(s.products + (s.plan.recurrence.SplitsBatch() ? rows.first * s.plan.chunk_steps
                                                                  : i * s.ProductRows()) *
                                     s.InputColumns()) {}

  // Of a kernel that the call packs into `memory`, or that is packed already, and only read.
  Slice<T> SliceOf(const GemmPlan& plan, void* memory, const void* const* kernel,
                   int64_t features) const {
    if (problem.packed_lanes != 0) {
      const int64_t size = plan.packed_bytes / static_cast<int64_t>(sizeof(T));
      return {plan,
              const_cast<T*>(at.Group(static_cast<const T*>(*kernel), size)),
              worker,
              {},
              space.RoundedOf(worker)};
    }
    return {plan,
            memory,
            worker,
            {at.Weights<const T>(kernel, features), features, hidden, false},
            space.RoundedOf(worker)};
  }
  static int64_t BiasOf(const Workspace<Forward>& s, int worker) {
    return (s.plan.recurrence.SplitsBatch() ? 0 : worker) * s.InputColumns();
  }
  float* H(int64_t step, int64_t b) const {  // the state before `step`
    return space.exchange + ((step & 1) * batch + b) * space.row;
  }
  float* PrivateState(int s, int64_t b) const {
    return space.carry + ((s - 1) * batch + b) * padded;
  }
  // State s of row b before a step that is reset.
  const T* ResetState(int s, int64_t b) const {
    if (!problem.has(Part::reset_state)) return static_cast<const T*>(space.zeros);
    return at.State(static_cast<const T*>(space.arrays.reset_state[s]), b);
  }

  void Pack() const {
    slice.Pack();
    inputs.Pack();
    if (!slice.plan.SplitsBatch() || worker == 0) {
      PackBias(space.arrays.bias, bias);
      if (Cell::kResetAfter) PackBias(space.arrays.recurrent_bias, recurrent_bias);
    }
    if (worker == 0 && space.ReadsZeros()) std::memset(space.zeros, 0, hidden * sizeof(T));
    for (int64_t b = rows.first; b < rows.last; ++b) {
      const bool reset = times.IsReset(b, times.Time(0));
      for (int s = 0; s < Cell::kStates; ++s) {
        const void* const initial = space.arrays.initial_state[s];
        float* const to = s == 0 ? H(0, b) : PrivateState(s, b);
        if (reset) {  // where nothing is given, `zeros` are not there yet
          CopyState(problem.has(Part::reset_state) ? ResetState(s, b) : nullptr, to);
        } else if (problem.HasWideStates()) {
          CopyState(at.State(static_cast<const float*>(initial), b), to);
        } else {
          CopyState(at.State(static_cast<const T*>(initial), b), to);
        }
      }
    }
  }

  // The units of the slice of a row's state, widened; zeros if it is null.
  template <class From>
  void CopyState(const From* from, float* to) const {
    for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
      const bool zero = from == nullptr;
      Store(to + unit, zero ? Vec{} : LoadPart(from + unit, Lanes(hidden, unit)));
    }
  }

  // A bias in the order of the packed columns, with zeros where the last panel is padded or the
  // problem has none.
  void PackBias(const void* const* given, float* packed) const {
    const auto from = at.Weights<const T>(given, 1);
    float* to = packed;
    for (int64_t unit = slice.first * kLanes; unit < slice.last * kLanes; unit += kLanes) {
      for (int g = 0; g < Cell::kGates; ++g, to += kLanes) {
        const bool zero = !from.Exist();
        Store(to, zero ? Vec{} : LoadPart(from.Gate(g) + unit, Lanes(hidden, unit)));
      }
    }
    for (; to < packed + inputs.Width(); to += kLanes) Store(to, Vec{});
  }

  // Computes the input gates of a chunk's steps, of which `begin` is the first.
  void ProjectInputs(int64_t begin) const {
    const int64_t left = problem.steps - begin;
    const int64_t steps = left < space.plan.chunk_steps ? left : space.plan.chunk_steps;
    const int64_t count = rows.Count();
    const auto row = [&](int64_t r) {
      return at.Input(static_cast<const T*>(space.arrays.x), rows.first + r % count,
                      times.Time(begin + r / count));
    };
    // Of a chunk, the sums of a row are those that it has among others.
    const bool single_row = steps * batch == 1 && !problem.has(Part::chunked);
    ForRows<T>(space, worker, steps * count, problem.inputs, row,
               [&](int64_t first, int64_t here, RowPointers in) {
                 inputs.MultiplyAll(in, here, single_row, {bias, 0},
                                    input_gates + first * inputs.Width());
               });
  }

  // Where a row's values are at a step. Hoisted by hand: stores may alias the workspace, so that
  // the compiler would reload every pointer.
  struct Row {
    const float* input_gates;  // from the slice's first unit on: gate after gate, unit after unit
    const float* h;
    float* next_h;
    float* private_state[Cell::kStates];  // from 1 on
    T* output;
    T* residuals;                            // null if not wanted
    T* final_state[Cell::kStates];           // null before the last step
    float* wide_final_state[Cell::kStates];  // in its place where it is wide
    const float* recurrent_bias;             // as the input gates are
    int64_t first_unit, hidden;
    bool runs;

    const float* InputGates(int64_t unit) const {
      return input_gates + (unit - first_unit) * Cell::kGates;
    }
    const float* RecurrentBias(int64_t unit) const {
      return recurrent_bias + (unit - first_unit) * Cell::kGates;
    }
  };

  Row RowAt(int64_t step, int64_t chunk_step, int64_t b) const {
    const Forward& arrays = space.arrays;
    const int64_t t = times.Time(step);
    Row row{};
    row.input_gates = input_gates + (chunk_step * rows.Count() + b - rows.first) * inputs.Width();
    row.h = H(step, b);
    row.next_h = H(step + 1, b);
    for (int s = 1; s < Cell::kStates; ++s) row.private_state[s] = PrivateState(s, b);
    row.output = at.Sequence(static_cast<T*>(arrays.outputs), b, t, hidden);
    if (arrays.residuals != nullptr) {
      row.residuals =
          at.Sequence(static_cast<T*>(arrays.residuals), b, t, Cell::kResiduals * hidden);
    }
    for (int s = 0; s < Cell::kStates && step + 1 == problem.steps; ++s) {
      if (problem.HasWideStates()) {
        row.wide_final_state[s] = at.State(static_cast<float*>(arrays.final_state[s]), b);
      } else {
        row.final_state[s] = at.State(static_cast<T*>(arrays.final_state[s]), b);
      }
    }
    row.recurrent_bias = recurrent_bias;
    row.first_unit = slice.first * kLanes;
    row.hidden = hidden;
    row.runs = times.Runs(b, t);
    return row;
  }

  void RunStep(int64_t step) const {
    const int64_t chunk_step = step % space.plan.chunk_steps;
    const auto prefetch = [&](int64_t b, int64_t unit, int64_t units) {
      const Row row = RowAt(step, chunk_step, b);
      const int64_t from = unit * kLanes, n = units * kLanes;
      Prefetch(row.InputGates(from), Cell::kGates * n);
      for (int s = 1; s < Cell::kStates; ++s) Prefetch<true>(row.private_state[s] + from, n);
      Prefetch<true>(row.next_h + from, n);
      Prefetch<true>(row.output + from, n);
      for (int s = 0; row.residuals != nullptr && s < Cell::kResiduals; ++s) {
        Prefetch<true>(row.residuals + s * hidden + from, n);
      }
    };
    const auto update = [&](int64_t b, int64_t first, int64_t units, const float* products) {
      const Row row = RowAt(step, chunk_step, b);
      for (int64_t u = 0; u < units; ++u) {
        const int64_t unit = (first + u) * kLanes;
        WithLanes(row.hidden, unit, [&](auto lanes) {
          if (row.runs) {
            Update(row, unit, products + u * Cell::kGates * kLanes, lanes);
          } else {
            CopyPaddedRow(row, unit, lanes);
          }
        });
      }
      if (times.IsReset(b, times.Time(step + 1))) HandOverResetState(row, b, first, units);
    };
    slice.ForBlocks(step, H(step, 0), space.row, rows, batch == 1, problem.has(Part::chunked),
                    passing, prefetch, update);
  }

  // One step of a vector of units of a row.
  template <class Lanes>
  [[gnu::always_inline]] static void Update(const Row& row, int64_t unit, const float* products,
                                            Lanes lanes) {
    const float* from = row.InputGates(unit);
    Vec input[Cell::kGates], recurrent[Cell::kGates], residuals[Cell::kResiduals + 1];
    for (int g = 0; g < Cell::kGates; ++g) {
      input[g] = Load(from + g * kLanes);
      recurrent[g] = Load(products + g * kLanes);
      if constexpr (Cell::kResetAfter) {
        recurrent[g] += Load(row.RecurrentBias(unit) + g * kLanes);
      }
    }
    Vec state[Cell::kStates] = {Load(row.h + unit)};
    for (int s = 1; s < Cell::kStates; ++s) state[s] = Load(row.private_state[s] + unit);
    Cell::template Forward<Math>(input, recurrent, state, residuals);
    state[0] = RoundTo<T>(state[0]);
    for (int s = 1; s < Cell::kStates; ++s) Store(row.private_state[s] + unit, state[s]);
    Emit(row, unit, state, state[0], residuals, lanes);
  }

  // The same at a step that the row does not run: its state stays, the outputs are zero.
  template <class Lanes>
  [[gnu::always_inline]] static void CopyPaddedRow(const Row& row, int64_t unit, Lanes lanes) {
    Vec state[Cell::kStates] = {Load(row.h + unit)};
    for (int s = 1; s < Cell::kStates; ++s) state[s] = Load(row.private_state[s] + unit);
    const Vec residuals[Cell::kResiduals + 1] = {};
    Emit(row, unit, state, Vec{}, residuals, lanes);
  }

  template <class Lanes>
  [[gnu::always_inline]] static void Emit(const Row& row, int64_t unit, const Vec* state,
                                          const Vec& output, const Vec* residuals, Lanes lanes) {
    lanes.Store(row.output + unit, output);
    for (int s = 0; row.residuals != nullptr && s < Cell::kResiduals; ++s) {
      lanes.Store(row.residuals + s * row.hidden + unit, residuals[s]);
    }
    Store(row.next_h + unit, state[0]);
    // The lanes past H hold whatever padded weights made of the row, which of infinite inputs is a
    // NaN. The products read the first of them where H is odd.
    if constexpr (!Lanes::kAll) row.next_h[row.hidden] = 0.0f;
    for (int s = 0; s < Cell::kStates; ++s) {
      if (row.final_state[s] != nullptr) lanes.Store(row.final_state[s] + unit, state[s]);
      if (row.wide_final_state[s] != nullptr) {
        lanes.Store(row.wide_final_state[s] + unit, state[s]);
      }
    }
  }

  // Replaces what a row's step hands to the next, which is reset.
  void HandOverResetState(const Row& row, int64_t b, int64_t first, int64_t units) const {
    for (int s = 0; s < Cell::kStates; ++s) {
      const T* const from = ResetState(s, b);
      float* const to = s == 0 ? row.next_h : row.private_state[s];
      for (int64_t unit = first * kLanes; unit < (first + units) * kLanes; unit += kLanes) {
        Store(to + unit, LoadPart(from + unit, Lanes(hidden, unit)));
      }
    }
  }

  // What a worker does in a phase; see Workspace.
  static void RunPhase(const Workspace<Forward>& space, int worker, int64_t phase) {
    const int64_t step = phase % space.phases - 1, chunk = space.plan.chunk_steps;
    const ForwardKernel kernel(space, phase / space.phases, worker);
    if (step < 0) return kernel.Pack();
    if (!space.plan.recurrence.SplitsBatch()) {
      if (step % chunk == 0) kernel.ProjectInputs(step);
      return kernel.RunStep(step);
    }
    const int64_t begin = step * chunk, left = space.problem.steps - begin;
    kernel.ProjectInputs(begin);
    for (int64_t i = 0; i < (left < chunk ? left : chunk); ++i) kernel.RunStep(begin + i);
  }
};

}  // namespace jp::cpu::JP_ISA
