// SPDX-License-Identifier: Apache-2.0
// Gradients of the weights: [features, rows] x [rows, columns], summed chunk after chunk. A worker
// has the columns of its own units, and keeps their gradients as weights are packed, with the rows
// as K.
#pragma once

#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

struct WeightGradients {
  const Workspace<Backward>& space;
  const int worker;
  const GemmPlan& plan = space.plan.d_weights;
  const int gates = plan.gates, gradients = space.Gradients();
  const Slice<float> of_input, of_recurrent;  // the gradients of the gates
  const int64_t hidden = space.problem.hidden;
  const int64_t width = of_input.Width(), row = space.transposed_row;

  WeightGradients(const Workspace<Backward>& s, int i)
      : space(s),
        worker(i),
        of_input(plan, s.d_columns, i),
        of_recurrent(plan, s.d_columns + (gradients - 1) * plan.packed_bytes / 4, i) {}

  // Keeps a row's gradients of a vector of units, which may be another worker's to sum.
  template <class Cell>
  void Keep(int64_t r, int64_t unit, const Vec* d_input, const Vec* d_recurrent) const {
    const bool own = unit >= of_input.first && unit < of_input.last;
    const int owner = own ? worker : plan.SliceOf(unit);
    const int64_t slice = (owner - worker) * (plan.slice_bytes / 4);
    const int vectors = plan.panel_vectors;
    const int64_t begin = own ? of_input.first : plan.FirstUnit(owner);
    const int first = static_cast<int>(unit - begin) * Cell::kGates;
    int64_t panel = first / vectors, c = first % vectors;
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t at = slice + (r * vectors + c) * kLanes;
      Store(of_input.Panel(panel) + at, d_input[g]);
      if constexpr (Cell::kResetAfter) Store(of_recurrent.Panel(panel) + at, d_recurrent[g]);
      if (++c == vectors) {
        ++panel;
        c = 0;
      }
    }
  }

  // Adds a chunk's rows; x(r) and h(r) are the factors of row r, or null: zeros. `first` says that
  // there is nothing to add to yet, `last` that the sums are done, and go to the group's gradients.
  template <class T, class X, class H>
  void Add(int64_t rows, bool first, bool last, int64_t group, const X& x, const H& h) const {
    const Backward& arrays = space.arrays;
    const int64_t inputs = space.problem.inputs;
    Pad(of_input, rows);
    AddRows<T>(of_input, rows, first, BiasSums(0), {last, group, 1, arrays.d_bias});
    if (Rounds<T>()) RoundPanels(of_input, rows);
    AddProduct<T>(of_input, rows, x, first, 0, {last, group, inputs, arrays.d_input_kernel});
    if (gradients > 1) {
      Pad(of_recurrent, rows);
      AddRows<T>(of_recurrent, rows, first, BiasSums(1), {last, group, 1, arrays.d_recurrent_bias});
      if (Rounds<T>()) RoundPanels(of_recurrent, rows);
    }
    AddProduct<T>(of_recurrent, rows, h, first, inputs,
                  {last, group, hidden, arrays.d_recurrent_kernel});
  }

 private:
  // Where sums of so many features go, when they are done.
  struct Output {
    bool done;
    int64_t group, features;
    void* const* arrays;  // the first is null for a bias that the problem has not
  };

  // Sums that are done after their only chunk share one place.
  float* Sums(int64_t feature) const {
    const int64_t at = space.SumsAreKept() ? feature : 0;
    return space.d_sums + worker * space.SumsRows() * space.DWidth() + at * width;
  }
  float* BiasSums(int gradient) const {
    return space.d_bias_sums + (worker * gradients + gradient) * space.DWidth();
  }

  template <class T>
  bool Rounds() const {
    return Slice<T>::kHasUnits && plan.units != Units::kWidened;
  }

  // Makes panels of bfloat16 of those of floats, where each of them begins.
  void RoundPanels(const Slice<float>& d, int64_t rows) const {
    const int vectors = plan.panel_vectors;
    for (int64_t p = 0; p < d.Panels(d.last - d.first); ++p) {
      const float* from = d.Panel(p);
      auto* to = reinterpret_cast<bfloat16*>(d.Panel(p));
      for (int64_t r = 0; r < rows; r += 2, from += d.PanelWidth()) {
        for (int c = 0; c < vectors; ++c, from += kLanes, to += 2 * kLanes) {
          const Vec even = RoundTo<bfloat16>(Load(from));
          const Vec odd = RoundTo<bfloat16>(Load(from + d.PanelWidth()));
          StorePair(to, vectors, 0, even, odd);
        }
      }
    }
  }

  // The same of rows of factors.
  void RoundFactors(float* factors, int64_t features, int64_t rows) const {
    for (int64_t f = 0; f < features; ++f, factors += row) {
      RoundValues(factors, reinterpret_cast<bfloat16*>(factors), rows);
    }
  }

  // Zero-pads to an even number of rows and to whole panels.
  void Pad(const Slice<float>& d, int64_t rows) const {
    const int vectors = plan.panel_vectors;
    const int64_t panels = d.Panels(d.last - d.first), even = rows + rows % 2;
    for (int64_t p = 0; p < panels && even > rows; ++p) {
      for (int c = 0; c < vectors; ++c) Store(d.Panel(p) + (rows * vectors + c) * kLanes, Vec{});
    }
    const int64_t used = (d.last - d.first) * gates - (panels - 1) * vectors;
    for (int64_t r = 0; r < even; ++r) {
      for (int64_t c = used; c < vectors; ++c) {
        Store(d.Panel(panels - 1) + (r * vectors + c) * kLanes, Vec{});
      }
    }
  }

  // The sums are those from feature `begin` on.
  template <class T, class From>
  void AddProduct(const Slice<float>& d, int64_t rows, const From& from, bool first, int64_t begin,
                  const Output& output) const {
    const int64_t most = space.problem.inputs > hidden ? space.problem.inputs : hidden;
    const int64_t padded = (most + kLanes - 1) / kLanes * kLanes;
    float* const transposed = space.transposed + worker * padded * row;
    for (int64_t r = 0; r < rows; r += kLanes) {
      const T* source[kLanes];
      for (int i = 0; i < kLanes; ++i) source[i] = r + i < rows ? from(r + i) : nullptr;
      TransposeInto(transposed + r, row, output.features, source);
    }
    AddTransposed<T>(d, rows, transposed, first, begin, output);
  }

  // The same of factors [features, rows].
  template <class T>
  void AddTransposed(const Slice<float>& d, int64_t rows, float* transposed, bool first,
                     int64_t begin, const Output& output) const {
    const int64_t features = output.features;
    const int64_t even_rows = rows + rows % 2;
    if (Rounds<T>()) RoundFactors(transposed, features, even_rows);
    [[maybe_unused]] MatrixTiles tiles;
    for (int64_t m = 0; m < features; m += kChunkRows) {
      const int64_t here = features - m < kChunkRows ? features - m : kChunkRows;
      const float* in[kChunkRows];
      for (int64_t i = 0; i < here; ++i) in[i] = transposed + (m + i) * row;
      float* const block = Sums(begin + m);
      for (int64_t p = 0; p < d.Panels(d.last - d.first); ++p) {
        float* const to = block + p * d.PanelWidth();
        const float* const next = nullptr;  // the gradients are in a cache
        const Accumulator accumulator{first ? nullptr : to, width, !first && plan.prefetches};
        if constexpr (Slice<T>::kHasUnits) {
          if (Rounds<T>()) {
            const RoundedRows rounded = {reinterpret_cast<const bfloat16*>(in[0]), 2 * row};
            MultiplyByUnits(plan.units, tiles, plan.panel_vectors, d.VectorsFrom(p), rounded, here,
                            0, even_rows, reinterpret_cast<const T*>(d.Panel(p)),
                            static_cast<const T*>(nullptr), Traversal::kForwards, accumulator, to,
                            width);
            continue;
          }
        }
        Multiply(plan.panel_vectors, d.VectorsFrom(p), in, here, here == 1, 0, even_rows,
                 d.Panel(p), next, Traversal::kForwards, accumulator, to, width);
      }
      if (output.done) Put<T>(block, m, here, output);
    }
  }

  // The sums of the rows alone; nothing where the problem has no such bias.
  template <class T>
  void AddRows(const Slice<float>& d, int64_t rows, bool first, float* sums,
               const Output& output) const {
    if (output.arrays[0] == nullptr) return;
    const int vectors = plan.panel_vectors;
    float* to = sums;
    for (int64_t p = 0; p < d.Panels(d.last - d.first); ++p) {
      for (int c = 0; c < vectors; ++c, to += kLanes) {
        Vec sum = first ? Vec{} : Load(to);
        for (int64_t r = 0; r < rows; ++r) sum += Load(d.Panel(p) + (r * vectors + c) * kLanes);
        Store(to, sum);
      }
    }
    if (output.done) Put<T>(sums, 0, 1, output);
  }

  // Stores the sums of some features in the order of the weights.
  template <class T>
  void Put(const float* sums, int64_t first, int64_t count, const Output& output) const {
    const ArrayViews at{space.problem, output.group};
    const auto weights = at.Weights<T>(output.arrays, output.features);
    T* gate[kMostGates];
    for (int g = 0; g < gates; ++g) gate[g] = weights.Gate(g);
    for (int64_t f = first; f < first + count; ++f, sums += width) {
      const int64_t row_begin = f * weights.stride;
      const float* from = sums;
      for (int64_t unit = of_input.first * kLanes; unit < of_input.last * kLanes; unit += kLanes) {
        for (int g = 0; g < gates; ++g, from += kLanes) {
          StorePart(gate[g] + row_begin + unit, Load(from), Lanes(hidden, unit));
        }
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
