// SPDX-License-Identifier: Apache-2.0
// Products of a few rows with weights where they lie. Weights that few rows use, a few times, take
// longer to pack than to multiply. The sums are those of gemm.h, in the same order.
#pragma once

#include "native/cpu/gemm.h"

namespace jp::cpu::JP_ISA {

// Some columns of a kernel: where they begin, and how far it is from one of its rows to the next.
template <class T>
struct ColumnsInPlace {
  const T* at;
  int64_t rows, stride;
  int64_t columns;  // kInPlaceColumns at most
};

// Columns whose sums are made at once, and stay in the L1 cache until they are done. Fewer would
// read less of each row of weights before the next, more would not stay there.
inline constexpr int64_t kInPlaceColumns = 512;
static_assert(kInPlaceColumns % kLanes == 0);

// Those sums: of each row and, behind a single row, its second set.
struct SumsInPlace {
  alignas(64) float at[kInPlaceRows][kInPlaceColumns];
};

// Rows that share a load of the weights; more take K in parts, which stay in the L2 cache for them.
inline constexpr int kInPlaceTile = 4;
inline constexpr int64_t kInPlacePart = 48;  // a multiple of every InPlaceK

// Rows of weights that are taken at once: their factors stay in registers, beside the sums.
constexpr int InPlaceK(int rows) {
  const int fit = (kRegisters - 4 - 2 * rows) / rows / 2 * 2;
  return fit < 2 ? 2 : fit > 8 ? 8 : fit;
}

// What is known of a product when it is compiled.
template <int kM, bool kIsSingle, Traversal kTurn, bool kAhead>
struct InPlaceForm {
  static constexpr int kRows = kM;
  static constexpr bool kSingleRow = kIsSingle, kPrefetches = kAhead;
  static constexpr Traversal kTraversal = kTurn;
};

// The factors of kCount rows of weights.
template <int M, int kCount>
struct Factors {
  Vec at[kCount][M];

  [[gnu::always_inline]] Factors(RowPointers in, int64_t k) {
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) {
      JP_UNROLL
      for (int m = 0; m < M; ++m) at[i][m] = Broadcast(in[m][k + i]);
    }
  }
};

// The same in pairs.
template <int M, int kCount>
struct PairFactors {
  VecU at[kCount / 2][M];

  [[gnu::always_inline]] PairFactors(RoundedRows in, int64_t k) {
    JP_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      JP_UNROLL
      for (int m = 0; m < M; ++m) at[i][m] = BroadcastPair(in[m] + k + 2 * i);
    }
  }
};

// Adds kCount rows of a vector of weights to the sums from column c on. `load` reads weights.
template <class Form, int kCount, bool kPadded, class T, class Read>
[[gnu::always_inline]] static inline void AddVector(const PairFactors<Form::kRows, kCount>& x,
                                                    const T* weights, int64_t stride,
                                                    float (*sums)[kInPlaceColumns], int64_t c,
                                                    const Read& load) {
  constexpr int M = Form::kRows;
  Vec sum[M];
  JP_UNROLL
  for (int m = 0; m < M; ++m) sum[m] = Load(sums[m] + c);
  JP_UNROLL
  for (int j = 0; j < kCount / 2; ++j) {
    const int pair = Form::kTraversal == Traversal::kForwards ? j : kCount / 2 - 1 - j;
    const T* const even = weights + 2 * pair * stride;
    const VecU low = (VecU)load(even) >> 16;
    const VecU both = kPadded ? low : low | (VecU)load(even + stride);
    JP_UNROLL
    for (int m = 0; m < M; ++m) sum[m] = DotPairs(sum[m], x.at[pair][m], both);
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) Store(sums[m] + c, sum[m]);
}

template <class Form, int kCount, bool kPadded, class T, class Read>
[[gnu::always_inline]] static inline void AddVector(const Factors<Form::kRows, kCount>& x,
                                                    const T* weights, int64_t stride,
                                                    float (*sums)[kInPlaceColumns], int64_t c,
                                                    const Read& load) {
  constexpr int M = Form::kRows;
  constexpr bool kForwards = Form::kTraversal == Traversal::kForwards;
  Vec sum[M], second = {};
  JP_UNROLL
  for (int m = 0; m < M; ++m) sum[m] = Load(sums[m] + c);
  if constexpr (Form::kSingleRow) second = Load(sums[1] + c);
  JP_UNROLL
  for (int j = 0; j < kCount; j += 2) {
    const int pair = kForwards ? j : kCount - 2 - j;
    const Vec even = load(weights + pair * stride);
    const Vec odd = kPadded ? Vec{} : load(weights + (pair + 1) * stride);
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      Vec& other = Form::kSingleRow ? second : sum[m];
      sum[m] = MulAdd(sum[m], x.at[pair][m], even);
      other = MulAdd(other, x.at[pair + 1][m], odd);
    }
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) Store(sums[m] + c, sum[m]);
  if constexpr (Form::kSingleRow) Store(sums[1] + c, second);
}

// Adds kCount rows of weights from k on, an even number of them; if kPadded, the last is padding.
template <class Form, int kCount, bool kPadded, class Rows, class T>
static void AddRowsInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t k,
                           float (*sums)[kInPlaceColumns]) {
  const auto x = [&] {
    if constexpr (sizeof(*in[0]) == sizeof(float)) {
      return Factors<Form::kRows, kCount>(in, k);
    } else {
      return PairFactors<Form::kRows, kCount>(in, k);
    }
  }();
  constexpr int64_t kNext = Form::kTraversal == Traversal::kForwards ? kCount : -kCount;
  const T* const weights = of.at + k * of.stride;
  int64_t c = 0;
  for (; c + kLanes <= of.columns; c += kLanes) {
    for (int i = 0; Form::kPrefetches && i < kCount; ++i) {
      PrefetchLine<false>(reinterpret_cast<const char*>(weights + (kNext + i) * of.stride + c));
    }
    AddVector<Form, kCount, kPadded>(x, weights + c, of.stride, sums, c,
                                     [](const T* p) { return Load(p); });
  }
  if (c < of.columns) {
    const int n = static_cast<int>(of.columns - c);
    AddVector<Form, kCount, kPadded>(x, weights + c, of.stride, sums, c,
                                     [n](const T* p) { return LoadPart(p, n); });
  }
}

// Adds the products of Form::kRows rows with the rows of weights from `begin` on, from either end.
template <class Form, class Rows, class T>
static void AddInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t begin, int64_t count,
                       float (*sums)[kInPlaceColumns]) {
  constexpr int kCount = InPlaceK(Form::kRows);
  constexpr bool kForwards = Form::kTraversal == Traversal::kForwards;
  const int64_t whole = begin + count / kCount * kCount, even = begin + count / 2 * 2;
  const auto blocks = [&] {
    for (int64_t i = begin; i < whole; i += kCount) {
      const int64_t k = kForwards ? i : begin + whole - kCount - i;
      AddRowsInPlace<Form, kCount, false>(of, in, k, sums);
    }
  };
  const auto rest = [&] {
    for (int64_t i = whole; i < even; i += 2) {
      AddRowsInPlace<Form, 2, false>(of, in, kForwards ? i : whole + even - 2 - i, sums);
    }
  };
  const auto padded = [&] {
    if (even < begin + count) AddRowsInPlace<Form, 2, true>(of, in, even, sums);
  };
  if (kForwards) blocks();
  if (!kForwards) padded();
  rest();
  if (kForwards) padded();
  if (!kForwards) blocks();
}

// The same for a tile of rows, or a batch's single row.
template <Traversal kTraversal, bool kPrefetches, class Rows, class T>
static void AddTileInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                           int64_t begin, int64_t count, float (*sums)[kInPlaceColumns]) {
  constexpr Traversal kTurn = kTraversal;
  if constexpr (sizeof(*in[0]) == sizeof(float)) {
    if (single_row) {
      return AddInPlace<InPlaceForm<1, true, kTurn, kPrefetches>>(of, in, begin, count, sums);
    }
  }
  switch (rows) {
    case 1:
      return AddInPlace<InPlaceForm<1, false, kTurn, kPrefetches>>(of, in, begin, count, sums);
    case 2:
      return AddInPlace<InPlaceForm<2, false, kTurn, kPrefetches>>(of, in, begin, count, sums);
    case 3:
      return AddInPlace<InPlaceForm<3, false, kTurn, kPrefetches>>(of, in, begin, count, sums);
    case 4:
      return AddInPlace<InPlaceForm<4, false, kTurn, kPrefetches>>(of, in, begin, count, sums);
  }
}

template <Traversal kTraversal, bool kPrefetches, class Rows, class T>
static void AddTilesInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                            SumsInPlace& sums) {
  const int64_t tiles = (rows + kInPlaceTile - 1) / kInPlaceTile;
  const int64_t part = tiles == 1 ? of.rows : kInPlacePart, parts = (of.rows + part - 1) / part;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = (kTraversal == Traversal::kForwards ? i : parts - 1 - i) * part;
    const int64_t count = of.rows - begin < part ? of.rows - begin : part;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = tile * rows / tiles, here = (tile + 1) * rows / tiles - first;
      AddTileInPlace<kTraversal, kPrefetches>(of, in + first, here, single_row, begin, count,
                                              sums.at + first);
    }
  }
}

// Adds the products of kInPlaceRows rows at most, or of a batch's single row, which is one among
// others for dot products of pairs.
template <class Rows, class T>
static void AddInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                       Traversal traversal, bool prefetches, SumsInPlace& sums) {
  constexpr Traversal kForwards = Traversal::kForwards, kBackwards = Traversal::kBackwards;
  if (traversal == kForwards) {
    return prefetches ? AddTilesInPlace<kForwards, true>(of, in, rows, single_row, sums)
                      : AddTilesInPlace<kForwards, false>(of, in, rows, single_row, sums);
  }
  return prefetches ? AddTilesInPlace<kBackwards, true>(of, in, rows, single_row, sums)
                    : AddTilesInPlace<kBackwards, false>(of, in, rows, single_row, sums);
}

}  // namespace jp::cpu::JP_ISA
