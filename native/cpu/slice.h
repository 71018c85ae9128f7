// What a worker does at each step, whichever direction: its slice's units, block after block.
#pragma once

#include "native/cpu/job.h"
#include "native/cpu/pack.h"
#include "native/cpu/product.h"
#include "native/cpu/simd.h"

namespace jp::cpu::JP_ISA {

// Weights as a caller has them: [depth, gates * units] or, transposed, [units, depth].
template <class T>
struct Weights {
  const T* at;
  int64_t depth, units;
  bool transposed;
};

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
  // The group's, of those that the caller has for `gates` gates of so many units; null if `base`
  // is.
  Weights<T> weights(const void* base, int64_t depth, int64_t units, int gates,
                     bool transposed) const {
    const T* const first = static_cast<const T*>(base);
    return {first == nullptr ? nullptr : first + group * depth * gates * units, depth, units,
            transposed};
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

// Calls f(the lanes that hold units from `unit` on).
template <class F>
[[gnu::always_inline]] static inline void WithLanes(int64_t hidden, int64_t unit, const F& f) {
  const int n = Lanes(hidden, unit);
  if (n == kLanes) {
    f(AllLanes{});
  } else {
    f(SomeLanes{n});
  }
}

// Rows whose values are asked for before the products. Of more, those that are a power of two
// apart would drive each other out of the caches: they are asked for this many rows ahead.
inline constexpr int64_t kEarlyRows = 4;

// Weights that leave the rest of what a step needs in the caches of a worker alone: asking for it
// would only delay. Of several workers each must have what the others read a step before.
inline constexpr int64_t kKeptBytes = 128 << 10;

// Of the products of many rows.
inline constexpr int64_t kPartDepth = 256;

// A worker's rows of a batch: from `first` to before `last`.
struct BatchRows {
  int64_t first, last;

  BatchRows(const CpuPass& pass, int64_t batch, int worker)
      : first(pass.by_rows() ? worker * batch / pass.workers : 0),
        last(pass.by_rows() ? (worker + 1) * batch / pass.workers : batch) {}
  int64_t count() const { return last - first; }
};

// A part of the units: those from `first` to before `last`, counted in vectors.
template <class T>
struct Slice {
  const CpuPass& pass;
  const Weights<T> weights;
  T* packed;
  int64_t first, last;
  int64_t first_packed, last_packed;  // panels that a worker packs

  Slice(const CpuPass& of_pass, void* all_packed, int worker, const Weights<T>& of = {})
      : pass(of_pass), weights(of), packed(static_cast<T*>(all_packed)) {
    if (pass.by_rows()) {
      first = 0;
      last = pass.units;
      first_packed = worker * pass.panels / pass.workers;
      last_packed = (worker + 1) * pass.panels / pass.workers;
    } else {
      packed += worker * (pass.packed_bytes / pass.slices / sizeof(T));
      first = pass.first_unit(worker);
      last = pass.first_unit(worker + 1);
      first_packed = 0;
      last_packed = panels(last - first);
    }
  }

  T* panel(int64_t p) const { return packed + p * pass.packed_depth * panel_width(); }
  // A panel that must be asked for before it is read, or null.
  const T* Streamed(int64_t p) const {
    return pass.kept() && pass.streams && p >= 0 && p < panels(last - first) ? panel(p) : nullptr;
  }
  int64_t panels(int64_t units) const {
    return (units * pass.gates + pass.vectors - 1) / pass.vectors;
  }
  int64_t panel_width() const { return pass.vectors * kLanes; }
  int64_t width() const { return panels(last - first) * panel_width(); }

  int LanesOf(int64_t unit, int64_t hidden) const {  // none past the slice's end
    return unit < last ? Lanes(hidden, unit * kLanes) : 0;
  }

  // Packs the weights, if they are kept.
  void Pack() const {
    if (pass.kept()) PackPart(first_packed, last_packed, 0, pass.depth);
  }

  // Of the panels from `begin` to before `end`, packs the rows from k to before `end_row`.
  void PackPart(int64_t begin, int64_t end, int64_t k, int64_t end_row) const {
    if (weights.transposed) {
      PackRows(begin, end, k, end_row);
    } else {
      PackColumns(begin, end, k, end_row);
    }
  }

  // The units are columns: those of a gate begin `units` values after those of the gate before.
  void PackColumns(int64_t begin, int64_t end, int64_t first_row, int64_t end_row) const {
    const int64_t stride = pass.gates * weights.units;
    for (int64_t k = first_row; k < end_row; k += kPackedRows) {
      const int64_t next = k + kPackedRows < end_row ? k + kPackedRows : end_row;
      int64_t unit = first + begin * pass.vectors / pass.gates;
      int64_t gate = begin * pass.vectors % pass.gates;
      for (int64_t p = begin; p < end; ++p) {
        T* const to = panel(p) + (k - first_row) * panel_width();
        for (int c = 0; c < pass.vectors; ++c) {
          const T* from = weights.at + gate * weights.units + unit * kLanes;
          CopyColumns(to, pass.vectors, c, k, next, from, stride, weights.depth,
                      LanesOf(unit, weights.units));
          gate = gate + 1 < pass.gates ? gate + 1 : 0;
          unit += gate == 0;
        }
      }
    }
  }

  // The units are rows.
  void PackRows(int64_t begin, int64_t end, int64_t first_row, int64_t end_row) const {
    const int64_t depth = weights.depth;
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t k = first_row; k < end_row; k += kPackedColumns) {
        const int64_t next = k + kPackedColumns < end_row ? k + kPackedColumns : end_row;
        T* const to = panel(p) + (k - first_row) * panel_width();
        for (int c = 0; c < pass.vectors; ++c) {
          const int64_t unit = first + p * pass.vectors + c;
          const int n = LanesOf(unit, weights.units);
          const T* from = weights.at + unit * kLanes * depth;
          const int64_t left = depth - next < kPackedColumns ? depth - next : kPackedColumns;
          for (int lane = 0; lane < n; ++lane) Prefetch(from + lane * depth + next, left);
          TransposeRows(to, pass.vectors, c, k, next, from, depth, depth, n);
        }
      }
    }
  }

  // out[r][width()] = start + in[r] x the slice's weights.
  void MultiplyAll(Rows in, int64_t rows, bool alone, Start start, float* out,
                   Order order = Order::kForwards) const {
    // What the rows hold of a part of the depth stays in the L2 cache for all panels; and so do
    // the weights, where they are not kept.
    const bool kept = pass.kept(), whole = kept && alone;
    const int64_t part = !kept ? pass.packed_depth : alone ? pass.depth : kPartDepth;
    ForDepths(pass.depth, part, order, start, out, width(),
              [&](int64_t k, int64_t depth, Start begin) {
                if (!kept) PackPart(0, panels(last - first), k, k + depth);
                const int64_t row = kept ? k * panel_width() : 0;
                for (int64_t p = 0; p < panels(last - first); ++p) {
                  const int64_t column = p * panel_width();
                  const T* next = Streamed(p + 1);
                  if (next != nullptr) next += row;
                  const Start here{begin.at == nullptr ? nullptr : begin.at + column, begin.stride};
                  Multiply(pass.vectors, in, rows, whole, k, depth, panel(p) + row, next, order,
                           here, out + column, width());
                }
              });
  }

  // Multiplies rows of a batch, `stride` apart from `in` on, with the slice's weights, or takes the
  // products as zero where `in` is null. For each block of units and each row, calls prefetch(row,
  // vector of units, number of them) before, and update(row, vector of units, number, products)
  // after. Every other step goes through the weights backwards: of those that a cache can't hold,
  // it finds the last ones there.
  //
  // Weights that are not kept, for kChunkRows at most, are taken as a whole, their products to
  // `passing`.
  template <class Prefetch, class Update>
  void ForBlocks(int64_t step, const float* in, int64_t stride, BatchRows of, bool alone,
                 float* passing, const Prefetch& prefetch, const Update& update) const {
    const Order order = step % 2 == 0 ? Order::kForwards : Order::kBackwards;
    if (!pass.kept() && in != nullptr) return ForAll(order, in, stride, of, passing, update);
    alignas(64) float products[kBlockRows * kMostBlockVectors * kLanes];
    const int64_t batch = of.count(), parts = (batch + kBlockRows - 1) / kBlockRows;
    const bool ask = pass.slices > 1 || pass.slice_bytes > kKeptBytes;
    const int64_t blocks = (last - first + pass.block_units - 1) / pass.block_units;
    const auto turn = [step](int64_t i, int64_t n) { return step % 2 == 0 ? i : n - 1 - i; };
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t unit = first + turn(i, blocks) * pass.block_units;
      const int64_t units = last - unit < pass.block_units ? last - unit : pass.block_units;
      const int64_t first_panel = (unit - first) * pass.gates / pass.vectors;
      const int64_t width = panels(units) * panel_width();
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t b0 = of.first + part * batch / parts;
        const int64_t rows = of.first + (part + 1) * batch / parts - b0;
        const float* row[kBlockRows];
        for (int64_t r = 0; in != nullptr && r < rows; ++r) {
          row[r] = in + (b0 + r) * stride;
          if (i == 0) JP_ISA::Prefetch(row[r], pass.depth);  // what other workers just wrote
        }
        if (in == nullptr) std::memset(products, 0, rows * width * sizeof(float));
        // A few at a time: they wait in line behind each other.
        const int64_t count = panels(units);
        const int64_t early = !ask ? rows : rows < kEarlyRows ? rows : kEarlyRows;
        for (int64_t p = 0; p < count; ++p) {
          for (int64_t r = p * early / count; ask && r < (p + 1) * early / count; ++r) {
            prefetch(b0 + r, unit, units);
          }
          if (in == nullptr) continue;
          const int64_t here = turn(p, count), at = first_panel + here;
          const T* next = Streamed(order == Order::kForwards ? at + 1 : at - 1);
          Multiply(pass.vectors, row, rows, alone, 0, pass.depth, panel(at), next, order, {},
                   products + here * panel_width(), width);
        }
        for (int64_t r = 0; r < rows; ++r) {
          if (r + early < rows) prefetch(b0 + r + early, unit, units);
          update(b0 + r, unit, units, products + r * width);
        }
      }
    }
  }

 private:
  template <class Update>
  void ForAll(Order order, const float* in, int64_t stride, BatchRows of, float* products,
              const Update& update) const {
    const float* row[kChunkRows] = {};
    for (int64_t r = 0; r < of.count(); ++r) row[r] = in + (of.first + r) * stride;
    MultiplyAll(row, of.count(), false, {}, products, order);
    for (int64_t r = 0; r < of.count(); ++r) {
      update(of.first + r, first, last - first, products + r * width());
    }
  }
};

}  // namespace jp::cpu::JP_ISA
