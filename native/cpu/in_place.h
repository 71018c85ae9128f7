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
// read less of each row of weights before the next, more would not stay there: with 1024 for four
// rows and 2048 for one, steps of four rows took up to 1.7 times as long in some processes.
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

// A way through the rows of weights, two at a time: where the first pair is, and how far the next.
struct InPlaceTurn {
  bool forwards;

  int64_t First(int64_t count) const { return forwards ? 0 : count - 2; }
  int64_t Next() const { return forwards ? 2 : -2; }
};

// The factors of kCount rows of weights, in the order of a way through them.
template <int M, int kCount>
struct Factors {
  Vec at[kCount][M];

  [[gnu::always_inline]] Factors(RowPointers in, int64_t k, InPlaceTurn turn) {
    k += turn.First(kCount);
    JP_UNROLL
    for (int i = 0; i < kCount; i += 2, k += turn.Next()) {
      JP_UNROLL
      for (int m = 0; m < M; ++m) {
        at[i][m] = Broadcast(in[m][k]);
        at[i + 1][m] = Broadcast(in[m][k + 1]);
      }
    }
  }
};

// The same in pairs.
template <int M, int kCount>
struct PairFactors {
  VecU at[kCount / 2][M];

  [[gnu::always_inline]] PairFactors(RoundedRows in, int64_t k, InPlaceTurn turn) {
    k += turn.First(kCount);
    JP_UNROLL
    for (int i = 0; i < kCount / 2; ++i, k += turn.Next()) {
      JP_UNROLL
      for (int m = 0; m < M; ++m) at[i][m] = BroadcastPair(in[m] + k);
    }
  }
};

// Adds kCount rows of a vector of weights to the sums from column c on. `weights` is in the first
// pair of rows, the next pair `step` values further. `load` reads weights.
template <bool kSingleRow, bool kPadded, int M, int kCount, class T, class Read>
[[gnu::always_inline]] static inline void AddVector(const PairFactors<M, kCount>& x,
                                                    const T* weights, int64_t stride, int64_t step,
                                                    float (*sums)[kInPlaceColumns], int64_t c,
                                                    const Read& load) {
  Vec sum[M];
  JP_UNROLL
  for (int m = 0; m < M; ++m) sum[m] = Load(sums[m] + c);
  JP_UNROLL
  for (int j = 0; j < kCount / 2; ++j) {
    const VecU low = (VecU)load(weights + j * step) >> 16;
    const VecU both = kPadded ? low : low | (VecU)load(weights + j * step + stride);
    JP_UNROLL
    for (int m = 0; m < M; ++m) sum[m] = DotPairs(sum[m], x.at[j][m], both);
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) Store(sums[m] + c, sum[m]);
}

template <bool kSingleRow, bool kPadded, int M, int kCount, class T, class Read>
[[gnu::always_inline]] static inline void AddVector(const Factors<M, kCount>& x, const T* weights,
                                                    int64_t stride, int64_t step,
                                                    float (*sums)[kInPlaceColumns], int64_t c,
                                                    const Read& load) {
  Vec sum[M], second = {};
  JP_UNROLL
  for (int m = 0; m < M; ++m) sum[m] = Load(sums[m] + c);
  if constexpr (kSingleRow) second = Load(sums[1] + c);
  JP_UNROLL
  for (int j = 0; j < kCount; j += 2) {
    const Vec even = load(weights + j / 2 * step);
    const Vec odd = kPadded ? Vec{} : load(weights + j / 2 * step + stride);
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      Vec& other = kSingleRow ? second : sum[m];
      sum[m] = MulAdd(sum[m], x.at[j][m], even);
      other = MulAdd(other, x.at[j + 1][m], odd);
    }
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) Store(sums[m] + c, sum[m]);
  if constexpr (kSingleRow) Store(sums[1] + c, second);
}

// Adds kCount rows of weights from k on, an even number of them; if kPadded, the last is padding.
template <int M, bool kSingleRow, int kCount, bool kPadded, class Rows, class T>
static void AddRowsInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t k, InPlaceTurn turn,
                           bool prefetches, float (*sums)[kInPlaceColumns]) {
  const auto x = [&] {
    if constexpr (sizeof(*in[0]) == sizeof(float)) {
      return Factors<M, kCount>(in, k, turn);
    } else {
      return PairFactors<M, kCount>(in, k, turn);
    }
  }();
  const int64_t step = turn.Next() * of.stride;
  const T* const weights = of.at + (k + turn.First(kCount)) * of.stride;
  const T* const soon = of.at + (turn.forwards ? k + kCount : k - kCount) * of.stride;
  int64_t c = 0;
  for (; c + kLanes <= of.columns; c += kLanes) {
    if (prefetches) {
      JP_UNROLL
      for (int i = 0; i < kCount; ++i) {
        PrefetchLine<false>(reinterpret_cast<const char*>(soon + i * of.stride + c));
      }
    }
    AddVector<kSingleRow, kPadded>(x, weights + c, of.stride, step, sums, c,
                                   [](const T* p) { return Load(p); });
  }
  if (c < of.columns) {
    const int n = static_cast<int>(of.columns - c);
    AddVector<kSingleRow, kPadded>(x, weights + c, of.stride, step, sums, c,
                                   [n](const T* p) { return LoadPart(p, n); });
  }
}

// Adds the products of M rows with the rows of weights from `begin` on, from either end.
template <int M, bool kSingleRow, class Rows, class T>
static void AddInPlace(const ColumnsInPlace<T>& of, Rows in, InPlaceTurn turn, bool prefetches,
                       int64_t begin, int64_t count, float (*sums)[kInPlaceColumns]) {
  constexpr int kCount = InPlaceK(M);
  const int64_t whole = begin + count / kCount * kCount, even = begin + count / 2 * 2;
  const auto blocks = [&] {
    for (int64_t i = begin; i < whole; i += kCount) {
      const int64_t k = turn.forwards ? i : begin + whole - kCount - i;
      AddRowsInPlace<M, kSingleRow, kCount, false>(of, in, k, turn, prefetches, sums);
    }
  };
  const auto padded = [&] {
    if (even == begin + count) return;
    AddRowsInPlace<M, kSingleRow, 2, true>(of, in, even, turn, prefetches, sums);
  };
  if (turn.forwards) blocks();
  if (!turn.forwards) padded();
  for (int64_t i = whole; i < even; i += 2) {
    const int64_t k = turn.forwards ? i : whole + even - 2 - i;
    AddRowsInPlace<M, kSingleRow, 2, false>(of, in, k, turn, prefetches, sums);
  }
  if (turn.forwards) padded();
  if (!turn.forwards) blocks();
}

// The same for a tile of rows, or a batch's single row.
template <class Rows, class T>
static void AddTileInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                           InPlaceTurn turn, bool prefetches, int64_t begin, int64_t count,
                           float (*sums)[kInPlaceColumns]) {
  if constexpr (sizeof(*in[0]) == sizeof(float)) {
    if (single_row) return AddInPlace<1, true>(of, in, turn, prefetches, begin, count, sums);
  }
  switch (rows) {
    case 1: return AddInPlace<1, false>(of, in, turn, prefetches, begin, count, sums);
    case 2: return AddInPlace<2, false>(of, in, turn, prefetches, begin, count, sums);
    case 3: return AddInPlace<3, false>(of, in, turn, prefetches, begin, count, sums);
    case 4: return AddInPlace<4, false>(of, in, turn, prefetches, begin, count, sums);
  }
}

// Adds the products of kInPlaceRows rows at most, or of a batch's single row, which is one among
// others for dot products of pairs.
template <class Rows, class T>
static void AddInPlace(const ColumnsInPlace<T>& of, Rows in, int64_t rows, bool single_row,
                       Traversal traversal, bool prefetches, SumsInPlace& sums) {
  const InPlaceTurn turn{traversal == Traversal::kForwards};
  const int64_t tiles = (rows + kInPlaceTile - 1) / kInPlaceTile;
  const int64_t part = tiles == 1 ? of.rows : kInPlacePart, parts = (of.rows + part - 1) / part;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = (turn.forwards ? i : parts - 1 - i) * part;
    const int64_t count = of.rows - begin < part ? of.rows - begin : part;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = tile * rows / tiles, here = (tile + 1) * rows / tiles - first;
      AddTileInPlace(of, in + first, here, single_row, turn, prefetches, begin, count,
                     sums.at + first);
    }
  }
}

}  // namespace jp::cpu::JP_ISA
