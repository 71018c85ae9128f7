// Gradients of the weights: [features, rows] x [rows, columns], summed chunk after chunk. A worker
// has the columns of its own units, and keeps their gradients as weights are packed: rows are the
// depth.
#pragma once

#include "native/cells/cell.h"
#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

template <class Cell>
struct WeightGradients {
  static constexpr int kGradients = Cell::kSeparateProduct ? 2 : 1;

  const Job<Backward>& job;
  const int worker;
  const Slice<float> of_inputs, of_product;
  const int64_t hidden = job.shape.hidden, columns = Cell::kGates * hidden;
  const int64_t width = of_inputs.width(), row = job.transposed_row;

  WeightGradients(const Job<Backward>& j, int i)
      : job(j),
        worker(i),
        of_inputs(j.d_weights, j.d_columns, i),
        of_product(j.d_weights, j.d_columns + (kGradients - 1) * j.d_weights.packed_bytes / 4, i) {}

  // Keeps a row's gradients of a vector of units, which may be another worker's to sum.
  void Keep(int64_t r, int64_t unit, const Vec* dx, const Vec* d_product) const {
    const bool own = unit >= of_inputs.first && unit < of_inputs.last;
    const int owner = own ? worker : job.d_weights.slice_of(unit);
    const int64_t slice = (owner - worker) * (job.d_weights.slice_bytes / 4);
    const int vectors = of_inputs.pass.vectors;
    const int64_t begin = own ? of_inputs.first : job.d_weights.first_unit(owner);
    const int first = static_cast<int>(unit - begin) * Cell::kGates;
    int64_t panel = first / vectors, c = first % vectors;
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t at = slice + (r * vectors + c) * kLanes;
      Store(of_inputs.panel(panel) + at, dx[g]);
      if constexpr (kGradients > 1) Store(of_product.panel(panel) + at, d_product[g]);
      if (++c == vectors) {
        ++panel;
        c = 0;
      }
    }
  }

  // Adds a chunk's rows; x(r) and h(r) are the factors of row r. `first` says that there is nothing
  // to add to yet, `last` that the sums are done: they go to where a group's gradients belong.
  template <class T, class X, class H>
  void Add(int64_t rows, bool first, bool last, int64_t group, const X& x, const H& h) const {
    const auto& arrays = job.arrays;
    const int64_t inputs = job.shape.inputs;
    FillUp(of_inputs, rows);
    AddProduct<T>(of_inputs, rows, x, first, 0, {last, group, inputs, arrays.d_input_kernel});
    AddRows<T>(of_inputs, rows, first, bias(0), {last, group, 1, arrays.d_bias});
    if constexpr (kGradients > 1) {
      FillUp(of_product, rows);
      AddRows<T>(of_product, rows, first, bias(1), {last, group, 1, arrays.d_recurrent_bias});
    }
    AddProduct<T>(of_product, rows, h, first, inputs,
                  {last, group, hidden, arrays.d_recurrent_kernel});
  }

 private:
  // Where sums of so many features go, when they are done.
  struct Output {
    bool done;
    int64_t group, features;
    void* at;  // [N, features, columns]
  };

  // Sums that are done with their only chunk need no place of their own.
  float* sums(int64_t feature) const {
    const int64_t at = job.sums_are_kept() ? feature : 0;
    return job.d_sums + worker * job.sums_rows() * job.d_width() + at * width;
  }
  float* bias(int gradient) const {
    return job.d_bias_sums + (worker * kGradients + gradient) * job.d_width();
  }

  // Gives an odd number of rows one of zeros, and the last panel's unused columns zeros.
  void FillUp(const Slice<float>& d, int64_t rows) const {
    const int vectors = d.pass.vectors;
    const int64_t panels = d.panels(d.last - d.first), even = rows + rows % 2;
    for (int64_t p = 0; p < panels && even > rows; ++p) {
      for (int c = 0; c < vectors; ++c) Store(d.panel(p) + (rows * vectors + c) * kLanes, Vec{});
    }
    const int64_t used = (d.last - d.first) * Cell::kGates - (panels - 1) * vectors;
    for (int64_t r = 0; r < even; ++r) {
      for (int64_t c = used; c < vectors; ++c) {
        Store(d.panel(panels - 1) + (r * vectors + c) * kLanes, Vec{});
      }
    }
  }

  // The sums are those from feature `begin` on.
  template <class T, class From>
  void AddProduct(const Slice<float>& d, int64_t rows, const From& from, bool first, int64_t begin,
                  const Output& output) const {
    const int64_t features = output.features;
    const int64_t padded = (job.shape.inputs > hidden ? job.shape.inputs : hidden) + kLanes - 1;
    float* const transposed = job.transposed + worker * (padded / kLanes * kLanes) * row;
    for (int64_t r = 0; r < rows; r += kLanes) TransposeInto(transposed, r, rows, features, from);
    for (int64_t m = 0; m < features; m += kChunkRows) {
      const int64_t here = features - m < kChunkRows ? features - m : kChunkRows;
      const float* in[kChunkRows];
      for (int64_t i = 0; i < here; ++i) in[i] = transposed + (m + i) * row;
      float* const block = sums(begin + m);
      for (int64_t p = 0; p < d.panels(d.last - d.first); ++p) {
        float* const to = block + p * d.panel_width();
        const float* const next = nullptr;  // the gradients wait in a cache
        const Start start{first ? nullptr : to, width, !first && d.pass.streams};
        Multiply(d.pass.vectors, in, here, here == 1, 0, rows + rows % 2, d.panel(p), next,
                 Order::kForwards, start, to, width);
      }
      if (output.done) Put<T>(block, m, here, output);
    }
  }

  // Rows r to r + kLanes of a factor, as columns; zeros for those past the last.
  template <class From>
  void TransposeInto(float* to, int64_t r, int64_t rows, int64_t features, const From& from) const {
    const decltype(from(0)) none = nullptr;
    decltype(from(0)) source[kLanes];
    for (int i = 0; i < kLanes; ++i) source[i] = r + i < rows ? from(r + i) : none;
    for (int64_t k = 0; k < features; k += kLanes) {
      const int n = Lanes(features, k);
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = source[i] == none ? Vec{} : LoadPart(source[i] + k, n);
      }
      Transpose(block);
      for (int i = 0; i < kLanes; ++i) Store(to + (k + i) * row + r, block[i]);
    }
  }

  template <class T>
  void AddRows(const Slice<float>& d, int64_t rows, bool first, float* sums,
               const Output& output) const {
    const int vectors = d.pass.vectors;
    float* to = sums;
    for (int64_t p = 0; p < d.panels(d.last - d.first); ++p) {
      for (int c = 0; c < vectors; ++c, to += kLanes) {
        Vec sum = first ? Vec{} : Load(to);
        for (int64_t r = 0; r < rows; ++r) sum += Load(d.panel(p) + (r * vectors + c) * kLanes);
        Store(to, sum);
      }
    }
    if (output.done) Put<T>(sums, 0, 1, output);
  }

  // Gives the sums of some features back in the order of the weights.
  template <class T>
  void Put(const float* sums, int64_t first, int64_t count, const Output& output) const {
    for (int64_t f = first; f < first + count; ++f, sums += width) {
      T* const to = static_cast<T*>(output.at) + (output.group * output.features + f) * columns;
      const float* from = sums;
      for (int64_t unit = of_inputs.first * kLanes; unit < of_inputs.last * kLanes;
           unit += kLanes) {
        for (int g = 0; g < Cell::kGates; ++g, from += kLanes) {
          StorePart(to + g * hidden + unit, Load(from), Lanes(hidden, unit));
        }
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
