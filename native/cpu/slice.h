// SPDX-License-Identifier: Apache-2.0
// A worker's part of a matrix product: packing its weights, and multiplying block after block.
#pragma once

#include "native/cpu/gemm.h"
#include "native/cpu/in_place.h"
#include "native/cpu/matrix_tiles.h"
#include "native/cpu/pack.h"
#include "native/cpu/simd.h"
#include "native/cpu/workspace.h"
#include "native/problem/array_views.h"
#include "native/problem/packed.h"

namespace jp::cpu::JP_ISA {

// One group's weights as the caller has them: [rows, gates * units] or, transposed, [units, rows].
// The rows are the product's K.
template <class T>
struct KernelView {
  GroupWeights<const T, const void> weights;  // none where the problem has none, or they are packed
  int64_t rows, units;
  bool transposed;
};

// Calls f with the lanes that hold units, of the vector that begins with `unit`.
template <class F>
[[gnu::always_inline]] static inline void WithLanes(int64_t hidden, int64_t unit, const F& f) {
  const int n = Lanes(hidden, unit);
  if (n == kLanes) {
    f(AllLanes{});
  } else {
    f(SomeLanes{n});
  }
}

// Rows whose operands are prefetched before the products. More at once, if they are a power of two
// apart, would evict each other from the caches: the others are prefetched this many rows ahead.
inline constexpr int64_t kEarlyRows = 4;

// With one worker and weights up to this size, the step's operands stay cached and prefetching only
// costs time. With several, each worker reads what others have just written.
inline constexpr int64_t kCachedBytes = 128 << 10;

// K is taken in parts of this size where many rows are multiplied.
inline constexpr int64_t kPartOfK = 256;

// A worker's rows of a batch: from `first` to before `last`.
struct BatchRows {
  int64_t first, last;

  BatchRows(const GemmPlan& plan, int64_t batch, int worker)
      : first(plan.SplitsBatch() ? worker * batch / plan.workers : 0),
        last(plan.SplitsBatch() ? (worker + 1) * batch / plan.workers : batch) {}
  int64_t Count() const { return last - first; }
};

// A worker's vectors of units, from `first` to before `last`, and their packed weights.
template <class T>
struct Slice {
  static constexpr bool kHasUnits = kMultipliesPairs && sizeof(T) == sizeof(bfloat16);

  const GemmPlan& plan;
  const KernelView<T> kernel;
  T* packed;
  bfloat16* const rounded;  // room for rows, where the plan's units take them rounded
  int64_t first, last;
  int64_t first_packed, last_packed;  // panels that a worker packs
  int64_t width;                      // of a row of all products

  Slice(const GemmPlan& of_plan, void* all_packed, int worker, const KernelView<T>& of = {},
        bfloat16* for_rounded = nullptr)
      : plan(of_plan), kernel(of), packed(static_cast<T*>(all_packed)), rounded(for_rounded) {
    if (plan.SplitsBatch()) {
      first = 0;
      last = plan.unit_vectors;
      first_packed = worker * plan.panels / plan.workers;
      last_packed = (worker + 1) * plan.panels / plan.workers;
    } else {
      packed += plan.FirstPanel(worker) * plan.packed_k * PanelWidth();
      first = plan.FirstUnit(worker);
      last = plan.FirstUnit(worker + 1);
      first_packed = 0;
      last_packed = Panels(last - first);
    }
    width = Panels(last - first) * PanelWidth();
  }

  // Its panels from `begin` to before `end` alone, whose products lie among those of all. Each
  // panel begins with a unit's first gate.
  Slice Part(int64_t begin, int64_t end) const {
    Slice part = *this;
    part.packed = Panel(begin);
    part.first = first + begin * plan.panel_vectors / plan.gates;
    const int64_t after = first + end * plan.panel_vectors / plan.gates;
    if (after < last) part.last = after;
    return part;
  }

  T* Panel(int64_t p) const { return packed + p * plan.packed_k * PanelWidth(); }
  // A panel that must be prefetched before it is read, or null.
  const T* Streamed(int64_t p) const {
    const bool streams = plan.PackedOnce() && plan.prefetches;
    return streams && p >= 0 && p < Panels(last - first) ? Panel(p) : nullptr;
  }
  int64_t Panels(int64_t units) const {
    return (units * plan.gates + plan.panel_vectors - 1) / plan.panel_vectors;
  }
  // Vectors of weights in a panel and in those after it.
  int64_t VectorsFrom(int64_t p) const {
    return (last - first) * plan.gates - p * plan.panel_vectors;
  }
  int64_t PanelWidth() const { return plan.panel_vectors * kLanes; }
  int64_t Width() const { return width; }

  // Lanes that hold units, of a vector of units; none past the slice's end.
  int LanesOf(int64_t unit, int64_t units) const {
    return unit < last ? Lanes(units, unit * kLanes) : 0;
  }

  // Packs the weights, unless they are packed already or at each use.
  void Pack() const {
    if (kernel.weights.Exist() && plan.PackedOnce()) PackPart(first_packed, last_packed, 0, plan.k);
  }

  // Packs rows k to before `end_row` of the panels from `begin` to before `end`.
  void PackPart(int64_t begin, int64_t end, int64_t k, int64_t end_row) const {
    if (kernel.transposed) {
      PackRows(begin, end, k, end_row);
    } else {
      PackColumns(begin, end, k, end_row);
    }
  }

  // The units are columns.
  void PackColumns(int64_t begin, int64_t end, int64_t first_row, int64_t end_row) const {
    const int64_t stride = kernel.weights.stride;
    for (int64_t k = first_row; k < end_row; k += kPackedRows) {
      const int64_t next = k + kPackedRows < end_row ? k + kPackedRows : end_row;
      int64_t unit = first + begin * plan.panel_vectors / plan.gates;
      int64_t gate = begin * plan.panel_vectors % plan.gates;
      for (int64_t p = begin; p < end; ++p) {
        T* const to = Panel(p) + (k - first_row) * PanelWidth();
        for (int c = 0; c < plan.panel_vectors; ++c) {
          const T* from = kernel.weights.Gate(gate) + unit * kLanes;
          CopyColumns(to, plan.panel_vectors, c, k, next, from, stride, kernel.rows,
                      LanesOf(unit, kernel.units));
          gate = gate + 1 < plan.gates ? gate + 1 : 0;
          unit += gate == 0;
        }
      }
    }
  }

  // The units are rows.
  void PackRows(int64_t begin, int64_t end, int64_t first_row, int64_t end_row) const {
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t k = first_row; k < end_row; k += kPackedColumns) {
        const int64_t next = k + kPackedColumns < end_row ? k + kPackedColumns : end_row;
        T* const to = Panel(p) + (k - first_row) * PanelWidth();
        for (int c = 0; c < plan.panel_vectors; ++c) {
          const int64_t unit = first + p * plan.panel_vectors + c;
          PackTransposed(to, c, k, next - k, unit * kLanes, LanesOf(unit, kernel.units));
        }
      }
    }
  }

  // Fills `count` rows of vector c of a panel, which begin at `to` and are weights of n units, from
  // their kth on.
  void PackTransposed(T* to, int c, int64_t k, int64_t count, int64_t unit, int n) const {
    const auto& weights = kernel.weights;
    const int64_t stride = weights.stride, column = k % stride;
    const int64_t left = kernel.rows - k < count ? kernel.rows - k : count;
    if (n == 0 || column + left <= stride) {
      const T* from = n == 0 ? nullptr : weights.Array(k / stride) + unit * stride + column;
      const int64_t after = stride - column - count;
      const int64_t next = after < kPackedColumns ? after : kPackedColumns;
      for (int lane = 0; lane < n; ++lane) Prefetch(from + lane * stride + count, next);
      return TransposeRows(to, plan.panel_vectors, c, 0, count, from, stride, left, n);
    }
    T joined[kLanes * kPackedColumns];  // of several arrays
    for (int64_t i = 0; i < left;) {
      const int64_t at = (k + i) % stride, whole = stride - at;
      const int64_t here = left - i < whole ? left - i : whole;
      const T* from = weights.Array((k + i) / stride) + unit * stride + at;
      for (int lane = 0; lane < n; ++lane) {
        std::memcpy(joined + lane * kPackedColumns + i, from + lane * stride, here * sizeof(T));
      }
      i += here;
    }
    TransposeRows(to, plan.panel_vectors, c, 0, count, joined, kPackedColumns, left, n);
  }

  // out[r][Width()] = accumulator + in[r] x the slice's weights. Behind a single row that is
  // multiplied with weights packed at each use, `out` has room for another: see Accumulator.
  void MultiplyAll(RowPointers in, int64_t rows, bool single_row, Accumulator accumulator,
                   float* out, Traversal traversal = Traversal::kForwards) const {
    // A part of K is taken for all panels before the next part, so that the rows' values of it stay
    // in the L2 cache; so do weights that are packed at each use.
    if (Rounds()) Round(in, rows);
    if (plan.in_place) {
      if constexpr (kHasUnits) {
        if (Rounds())
          return MultiplyAllInPlace(Rounded(), rows, false, accumulator, out, traversal);
      }
      return MultiplyAllInPlace(in, rows, single_row, accumulator, out, traversal);
    }
    MatrixTiles tiles;
    const bool once = plan.PackedOnce();
    const int64_t part = !once ? plan.packed_k : single_row ? plan.k : kPartOfK;
    float* const odd = single_row && !once && !Rounds() ? out + Width() : nullptr;
    if (odd != nullptr) std::memset(odd, 0, Width() * sizeof(float));
    ForPartsOfK(plan.k, part, traversal, accumulator, out, Width(),
                [&](int64_t k, int64_t k_count, Accumulator begin) {
                  if (!once) PackPart(0, Panels(last - first), k, k + k_count);
                  const int64_t row = once ? k * PanelWidth() : 0;
                  for (int64_t p = 0; p < Panels(last - first); ++p) {
                    const int64_t column = p * PanelWidth();
                    const T* next = Streamed(p + 1);
                    if (next != nullptr) next += row;
                    const Accumulator here{.at = begin.at == nullptr ? nullptr : begin.at + column,
                                           .stride = begin.stride,
                                           .odd = odd == nullptr ? nullptr : odd + column};
                    MultiplyPanelOf(p, tiles, in, rows, single_row, k, k_count, Panel(p) + row,
                                    next, traversal, here, out + column, Width());
                  }
                });
    for (int64_t c = 0; odd != nullptr && c < Width(); c += kLanes) {
      Store(out + c, Load(out + c) + Load(odd + c));
    }
  }

  // Multiplies rows of a batch, `stride` apart from `in` on, with the slice's weights; if `in` is
  // null, the products are zero. For each block of units and each row, calls prefetch(row, vector
  // of units, number of them) before the products, and update(row, vector of units, number,
  // products), which may change them, afterwards. Every other step goes through the weights
  // backwards: of weights that a cache can't hold, the ones read last are there. With `same_sums`
  // only the blocks and panels, so that each step adds up its products in one order.
  //
  // Weights that are not packed once, for kChunkRows rows at most, are multiplied as a whole,
  // and the products go to `passing`.
  template <class Prefetch, class Update>
  void ForBlocks(int64_t step, const float* in, int64_t stride, BatchRows of, bool single_row,
                 bool same_sums, float* passing, const Prefetch& prefetch,
                 const Update& update) const {
    const bool ahead = step % 2 == 0;
    const Traversal traversal = ahead || same_sums ? Traversal::kForwards : Traversal::kBackwards;
    if (!plan.PackedOnce() && in != nullptr) {
      return ForAll(traversal, in, stride, of, single_row, passing, update);
    }
    alignas(64) float products[kBlockRows * kMostBlockVectors * kLanes];
    MatrixTiles tiles;
    const int64_t batch = of.Count(), parts = (batch + kBlockRows - 1) / kBlockRows;
    const bool prefetches = plan.slices > 1 || plan.slice_bytes > kCachedBytes;
    const int64_t blocks = (last - first + plan.block_units - 1) / plan.block_units;
    const auto turn = [step](int64_t i, int64_t n) { return step % 2 == 0 ? i : n - 1 - i; };
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t unit = first + turn(i, blocks) * plan.block_units;
      const int64_t units = last - unit < plan.block_units ? last - unit : plan.block_units;
      const int64_t first_panel = (unit - first) * plan.gates / plan.panel_vectors;
      const int64_t width = Panels(units) * PanelWidth();
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t b0 = of.first + part * batch / parts;
        const int64_t rows = of.first + (part + 1) * batch / parts - b0;
        const float* row[kBlockRows];
        for (int64_t r = 0; in != nullptr && r < rows; ++r) {
          row[r] = in + (b0 + r) * stride;
          if (i == 0) JP_ISA::Prefetch(row[r], plan.k);  // what other workers just wrote
        }
        if (in == nullptr) std::memset(products, 0, rows * width * sizeof(float));
        if (in != nullptr && Rounds() && (i == 0 || parts > 1)) Round(row, rows);
        // A few rows before each panel's product: prefetches queue up behind each other.
        const int64_t count = Panels(units);
        const int64_t early = !prefetches ? rows : rows < kEarlyRows ? rows : kEarlyRows;
        for (int64_t p = 0; p < count; ++p) {
          for (int64_t r = p * early / count; prefetches && r < (p + 1) * early / count; ++r) {
            prefetch(b0 + r, unit, units);
          }
          if (in == nullptr) continue;
          const int64_t here = turn(p, count), at = first_panel + here;
          const T* next = Streamed(ahead ? at + 1 : at - 1);
          MultiplyPanelOf(at, tiles, row, rows, single_row, 0, plan.k, Panel(at), next, traversal,
                          {}, products + here * PanelWidth(), width);
        }
        for (int64_t r = 0; r < rows; ++r) {
          if (r + early < rows) prefetch(b0 + r + early, unit, units);
          update(b0 + r, unit, units, products + r * width);
        }
      }
    }
  }

 private:
  bool Rounds() const { return kHasUnits && plan.units != Units::kWidened; }
  void Round(RowPointers in, int64_t rows) const {
    for (int64_t r = 0; r < rows; ++r) {
      RoundValues(in[r], rounded + r * plan.RoundedStride(), plan.k);
    }
  }
  RoundedRows Rounded() const { return {rounded, plan.RoundedStride()}; }

  // Multiplies rows with panel p or a part of it, which begins at `weights`, by the plan's units.
  void MultiplyPanelOf(int64_t p, MatrixTiles& tiles, RowPointers in, int64_t rows, bool single_row,
                       int64_t k, int64_t k_count, const T* weights, const T* next,
                       Traversal traversal, Accumulator accumulator, float* out,
                       int64_t out_stride) const {
    const int64_t used = VectorsFrom(p);
    if constexpr (kHasUnits) {
      if (Rounds()) {
        return MultiplyByUnits(plan.units, tiles, plan.panel_vectors, used, Rounded(), rows, k,
                               k_count, weights, next, traversal, accumulator, out, out_stride);
      }
    }
    Multiply(plan.panel_vectors, used, in, rows, single_row, k, k_count, weights, next, traversal,
             accumulator, out, out_stride);
  }

  // MultiplyAll with weights where they lie. Those of a gate are taken by themselves: there they
  // are side by side, while the sums are unit after unit.
  template <class Rows>
  void MultiplyAllInPlace(Rows in, int64_t rows, bool single_row, Accumulator accumulator,
                          float* out, Traversal traversal) const {
    const int64_t end = last * kLanes < kernel.units ? last * kLanes : kernel.units;
    for (int64_t gate = 0; gate < plan.gates; ++gate) {
      for (int64_t unit = first * kLanes; unit < end; unit += kInPlaceColumns) {
        const int64_t columns = end - unit < kInPlaceColumns ? end - unit : kInPlaceColumns;
        const ColumnsInPlace<T> of = {kernel.weights.Gate(gate) + unit, kernel.rows,
                                      kernel.weights.stride, columns};
        const int64_t begin = ((unit / kLanes - first) * plan.gates + gate) * kLanes;
        for (int64_t r = 0; r < rows; r += kInPlaceRows) {
          Accumulator here = accumulator;
          if (here.at != nullptr) here.at += r * here.stride + begin;
          MultiplyInPlace(of, in + r, rows - r < kInPlaceRows ? rows - r : kInPlaceRows, single_row,
                          here, out + r * Width() + begin, traversal);
        }
      }
    }
  }

  // Some rows, and some columns of a gate.
  template <class Rows>
  void MultiplyInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                       Accumulator accumulator, float* out, Traversal traversal) const {
    SumsInPlace sums;
    for (int64_t r = 0; r < rows; ++r) {
      const float* from =
          accumulator.at == nullptr ? nullptr : accumulator.at + r * accumulator.stride;
      for (int64_t c = 0; c < of.columns; c += kLanes) {
        Store(sums.at[r] + c, from == nullptr ? Vec{} : Load(from + c * plan.gates));
        if (single_row) Store(sums.at[1] + c, Vec{});
      }
    }
    AddInPlace(of, in, rows, single_row, traversal, plan.prefetches, sums);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < of.columns; c += kLanes) {
        const Vec sum = Load(sums.at[r] + c);
        Store(out + r * Width() + c * plan.gates, single_row ? sum + Load(sums.at[1] + c) : sum);
      }
    }
  }

  template <class Update>
  void ForAll(Traversal traversal, const float* in, int64_t stride, BatchRows of, bool single_row,
              float* products, const Update& update) const {
    const float* row[kChunkRows] = {};
    for (int64_t r = 0; r < of.Count(); ++r) row[r] = in + (of.first + r) * stride;
    MultiplyAll(row, of.Count(), single_row, {}, products, traversal);
    for (int64_t r = 0; r < of.Count(); ++r) {
      update(of.first + r, first, last - first, products + r * Width());
    }
  }
};

// Packs a worker's panels of all kernels of a call.
template <class T>
static void PackKernels(const Packing& packing, const GemmPlan& plan, const void* from, void* to,
                        int worker) {
  const int64_t rows = packing.rows, size = rows * packing.gates * packing.units;
  const int64_t packed_size = plan.packed_bytes / static_cast<int64_t>(sizeof(T));
  const int64_t columns = packing.gates * packing.units;
  for (int64_t i = 0; i < packing.kernels; ++i) {
    const KernelView<T> kernel{
        {&from, i * size, packing.units, columns}, rows, packing.units, false};
    Slice<T>(plan, static_cast<T*>(to) + i * packed_size, worker, kernel).Pack();
  }
}

}  // namespace jp::cpu::JP_ISA
