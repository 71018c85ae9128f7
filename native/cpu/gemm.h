// SPDX-License-Identifier: Apache-2.0
// Matrix products: batch rows times a packed panel, a tile at a time, accumulated in registers.
//
// A panel is [K][vectors][lanes] floats, or [K/2][vectors][lanes][2] bfloat16: two rows of weights
// interleaved, which widens to float with a shift and a mask, and is the order that bfloat16 dot
// products take.
#pragma once

#include "native/cpu/cpu_plan.h"
#include "native/cpu/simd.h"

namespace jp::cpu::JP_ISA {

inline constexpr int kRegisters = JP_VECTOR_REGISTERS;
inline constexpr int64_t kLineBytes = 64;  // of a cache

// Prefetches a cache line that is soon read, or written.
template <bool kWrite>
static inline void PrefetchLine(const char* line) {
  __builtin_prefetch(line, kWrite, 2);
  asm volatile("");  // or a compiler takes this for a function without effect, and drops it
}

// The same for n values.
template <bool kWrite = false, class T>
static inline void Prefetch(const T* values, int64_t n) {
  const char* from = reinterpret_cast<const char*>(values);
  for (int64_t i = 0; i < n * static_cast<int64_t>(sizeof(T)); i += kLineBytes) {
    PrefetchLine<kWrite>(from + i);
  }
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls tile(Count<M>, first row) over all rows in tiles of nearly equal height, M <= kRows.
template <int kRows, class Tile>
static inline void ForTiles(int64_t rows, const Tile& tile) {
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = i * rows / tiles;
    switch ((i + 1) * rows / tiles - first) {
      case 1: tile(Count<1>{}, first); break;
      case 2: tile(Count<kRows >= 2 ? 2 : 1>{}, first); break;
      case 3: tile(Count<kRows >= 3 ? 3 : 1>{}, first); break;
      case 4: tile(Count<kRows >= 4 ? 4 : 1>{}, first); break;
      case 5: tile(Count<kRows >= 5 ? 5 : 1>{}, first); break;
      case 6: tile(Count<kRows >= 6 ? 6 : 1>{}, first); break;
    }
  }
}

// Vector c of row kOdd of a pair of rows of weights, of a panel kStride vectors wide.
template <int kStride, int kOdd>
[[gnu::always_inline]] static inline Vec LoadWeights(const float* pair, int c) {
  return Load(pair + (kOdd * kStride + c) * kLanes);
}

// Both rows of a pair of rows of weights: vector c.
[[gnu::always_inline]] static inline VecU LoadPairs(const bfloat16* pair, int c) {
  VecU both;
  std::memcpy(&both, pair + 2 * c * kLanes, sizeof both);
  return both;
}

template <int kStride, int kOdd>
[[gnu::always_inline]] static inline Vec LoadWeights(const bfloat16* pair, int c) {
  const VecU both = LoadPairs(pair, c);
  return (Vec)(kOdd ? HighHalves(both) : both << 16);
}

// Where each row of the left operand begins.
using RowPointers = const float* const*;

// The same of rows that are rounded to bfloat16, `stride` values apart, for dot products of pairs.
struct RoundedRows {
  const bfloat16* at;
  int64_t stride;
  const bfloat16* operator[](int64_t row) const { return at + row * stride; }
  RoundedRows operator+(int64_t row) const { return {at + row * stride, stride}; }
};

// Vectors of other widths have no such instruction.
inline constexpr bool kMultipliesPairs = kLanes == 16;

// The accumulators of a tile. Every loop over them is fully unrolled: only then do they live in
// registers.
#define JP_UNROLL _Pragma("GCC unroll 16")

template <int M, int kVectors, int kStride>
struct TileSums {
  Vec at[M][kVectors] = {};

  // Adds the products of one k: a value from each row of `in` times row kOdd of a pair of rows of
  // weights.
  template <int kOdd, class T>
  [[gnu::always_inline]] void Add(RowPointers in, int64_t k, const T* pair) {
    AddProducts([&](int m) { return Broadcast(in[m][k]); },
                [&](int c) { return LoadWeights<kStride, kOdd>(pair, c); }, MulAdd);
  }

  // The same of both rows of the pair, with two values from each row of `in`.
  [[gnu::always_inline]] void AddPair(const bfloat16* const* in, int64_t k, const bfloat16* pair) {
    AddProducts([&](int m) { return BroadcastPair(in[m] + k); },
                [&](int c) { return LoadPairs(pair, c); }, DotPairs);
  }

 private:
  // Of values and weights, the fewer are held in registers.
  template <class Value, class Weights, class Join>
  [[gnu::always_inline]] void AddProducts(const Value& value, const Weights& weights,
                                          const Join& join) {
    if constexpr (kVectors <= M) {
      decltype(weights(0)) held[kVectors];
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) held[c] = weights(c);
      JP_UNROLL
      for (int m = 0; m < M; ++m) {
        const auto x = value(m);
        JP_UNROLL
        for (int c = 0; c < kVectors; ++c) at[m][c] = join(at[m][c], x, held[c]);
      }
    } else {
      decltype(value(0)) held[M];
      JP_UNROLL
      for (int m = 0; m < M; ++m) held[m] = value(m);
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        const auto w = weights(c);
        JP_UNROLL
        for (int m = 0; m < M; ++m) at[m][c] = join(at[m][c], held[m], w);
      }
    }
  }
};

// What a product is added to: one row for all rows of the result (stride 0), or rows of its own.
struct Accumulator {
  const float* at;  // null: zero
  int64_t stride;
  bool prefetches = false;  // it is not in a cache: each tile prefetches that of the next one
  // Of a single row, if its K comes in parts: the second set, which is kept apart between them. The
  // caller adds it up.
  float* odd = nullptr;
};

// Which end of a panel is read first. Callers that read it many times alternate, so that the end
// read last is still in the L1 cache.
enum class Traversal { kForwards, kBackwards };

// Cache lines to prefetch while a tile is computed: so many for each pair of rows of its weights.
struct PrefetchPlan {
  const char* from;
  int64_t lines;
};

// out[m] = accumulator[m] + in[m][k_begin..k_begin + k_count) x panel; k_count is even. A single
// row has too few accumulators to hide the latency of an addition: it gets a second set.
template <int M, int kVectors, int kStride, bool kSingleRow, class Rows, class T>
static void MultiplyTile(Rows in, int64_t k_begin, int64_t k_count, const T* panel,
                         Traversal traversal, Accumulator accumulator, float* out,
                         int64_t out_stride, PrefetchPlan prefetch = {}) {
  decltype(in[0] + k_begin) row[M];
  JP_UNROLL
  for (int m = 0; m < M; ++m) row[m] = in[m] + k_begin;
  TileSums<M, kVectors, kStride> even, odd;
  if (accumulator.at != nullptr) {
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        even.at[m][c] = Load(accumulator.at + m * accumulator.stride + c * kLanes);
      }
    }
  }
  if (accumulator.prefetches) {
    JP_UNROLL
    for (int m = M; m < 2 * M; ++m) {
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        const float* vector = accumulator.at + m * accumulator.stride + c * kLanes;
        PrefetchLine<true>(reinterpret_cast<const char*>(vector));
      }
    }
  }
  const bool in_parts = kSingleRow && accumulator.odd != nullptr;
  if (in_parts) {
    JP_UNROLL
    for (int c = 0; c < kVectors; ++c) odd.at[0][c] = Load(accumulator.odd + c * kLanes);
  }
  const int64_t step = traversal == Traversal::kForwards ? 2 : -2;
  const int64_t begin = traversal == Traversal::kForwards ? 0 : k_count - 2;
  const int64_t end = traversal == Traversal::kForwards ? k_count : -2;
  // One condition: with two, which are two ways out, GCC copies the sums in every turn, and has too
  // few registers for both.
  for (int64_t k = begin; k != end; k += step) {
    const T* pair = panel + k * (kStride * kLanes);
    if constexpr (sizeof(*row[0]) == sizeof(float)) {
      even.template Add<0>(row, k, pair);
      (kSingleRow ? odd : even).template Add<1>(row, k + 1, pair);
    } else {
      even.AddPair(row, k, pair);
    }
    for (int64_t i = 0; !kSingleRow && i < prefetch.lines; ++i, prefetch.from += kLineBytes) {
      PrefetchLine<false>(prefetch.from);
    }
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) {
    JP_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      if (in_parts) Store(accumulator.odd + c * kLanes, odd.at[m][c]);
      const bool adds = kSingleRow && !in_parts;
      const Vec sum = adds ? even.at[m][c] + odd.at[m][c] : even.at[m][c];
      Store(out + m * out_stride + c * kLanes, sum);
    }
  }
}

// All rows of a batch times a panel, in tiles of at most kRows. If `next` is not null, they
// prefetch as many weights from there on.
template <int kVectors, int kStride, int kRows, class Rows, class T, class Next>
static void MultiplyTiles(Rows in, int64_t rows, int64_t k_begin, int64_t k_count, const T* panel,
                          const Next* next, Traversal traversal, Accumulator accumulator,
                          float* out, int64_t out_stride) {
  constexpr int64_t kLines = 2 * kStride * kLanes * sizeof(Next) / kLineBytes;  // in two rows
  const int64_t tiles = (rows + kRows - 1) / kRows;
  int64_t left = next == nullptr || tiles == 1 ? 0 : kLines;
  PrefetchPlan prefetch{reinterpret_cast<const char*>(next), (left + tiles - 1) / tiles};
  ForTiles<kRows>(rows, [&](auto height, int64_t r) {
    Accumulator here = accumulator;
    if (here.at != nullptr) here.at += r * here.stride;
    if (prefetch.lines > left) prefetch.lines = left;
    MultiplyTile<decltype(height)::value, kVectors, kStride, false>(
        in + r, k_begin, k_count, panel, traversal, here, out + r * out_stride, out_stride,
        prefetch);
    left -= prefetch.lines;
    prefetch.from += prefetch.lines * (k_count / 2) * kLineBytes;
  });
}

// Calls multiply(first row of weights, number of them, accumulator) for one part of K after the
// other.
template <class F>
[[gnu::always_inline]] static inline void ForPartsOfK(int64_t k_count, int64_t part,
                                                      Traversal traversal, Accumulator accumulator,
                                                      const float* out, int64_t out_stride,
                                                      const F& multiply) {
  const int64_t parts = (k_count + part - 1) / part;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t k = (traversal == Traversal::kForwards ? i : parts - 1 - i) * part;
    multiply(k, k_count - k < part ? k_count - k : part,
             i == 0 ? accumulator : Accumulator{out, out_stride});
  }
}

// Weights that many tiles read are taken in parts, which stay in a cache meanwhile: in L1 or, with
// wide vectors, in L2, which is larger on such processors. Fewer parts move the accumulators less
// often.
inline constexpr int64_t kPartBytes = kLanes < 16 ? 16 << 10 : 64 << 10;

// Where the weights begin that are read after the part of a panel at row k: in the same panel, or
// in `next`. Null if `next` is.
template <class T>
static inline const T* AfterPart(const T* panel, const T* next, int64_t width, int64_t k,
                                 int64_t k_count, int64_t part, Traversal traversal) {
  const int64_t last = (k_count - 1) / part * part;
  if (next == nullptr) return nullptr;
  if (traversal == Traversal::kForwards) return k < last ? panel + (k + part) * width : next;
  return k > 0 ? panel + (k - part) * width : next + last * width;
}

template <int kVectors, int kStride, class Rows, class T>
static void MultiplyRows(Rows in, int64_t rows, int64_t k_begin, int64_t k_count, const T* panel,
                         const T* next, Traversal traversal, Accumulator accumulator, float* out,
                         int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int64_t kWidth = kStride * kLanes, kPairBytes = 2 * kWidth * sizeof(T);
  constexpr int64_t kPartK = kPartBytes / kPairBytes * 2;
  ForPartsOfK(k_count, rows <= kRows ? k_count : kPartK, traversal, accumulator, out, out_stride,
              [&](int64_t k, int64_t length, Accumulator begin) {
                const T* after = AfterPart(panel, next, kWidth, k, k_count, kPartK, traversal);
                MultiplyTiles<kVectors, kStride, kRows>(in, rows, k_begin + k, length,
                                                        panel + k * kWidth, after, traversal, begin,
                                                        out, out_stride);
              });
}

// bfloat16 weights: widen a block to float32 once, then reuse it for all rows.
template <int kVectors, int kStride>
static void MultiplyRows(RowPointers in, int64_t rows, int64_t k_begin, int64_t k_count,
                         const bfloat16* panel, const bfloat16* next, Traversal traversal,
                         Accumulator accumulator, float* out, int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int kNarrowRows = TileRows(kVectors, kRegisters, 2);
  constexpr int64_t kWidth = kStride * kLanes, kWideWidth = kVectors * kLanes, kPartK = 128;
  if (rows < kWidenedRows) {
    return MultiplyTiles<kVectors, kStride, kNarrowRows>(in, rows, k_begin, k_count, panel, next,
                                                         traversal, accumulator, out, out_stride);
  }
  alignas(64) float wide[kPartK * kWideWidth];
  ForPartsOfK(k_count, kPartK, traversal, accumulator, out, out_stride,
              [&](int64_t k, int64_t length, Accumulator begin) {
                const bfloat16* part = panel + k * kWidth;
                const bfloat16* after =
                    AfterPart(panel, next, kWidth, k, k_count, kPartK, traversal);
                for (int64_t i = 0; i < length; i += 2) {
                  float* to = wide + i * kWideWidth;
                  for (int c = 0; c < kVectors; ++c, to += kLanes) {
                    Store(to, LoadWeights<kStride, 0>(part + i * kWidth, c));
                    Store(to + kWideWidth, LoadWeights<kStride, 1>(part + i * kWidth, c));
                  }
                }
                MultiplyTiles<kVectors, kVectors, kRows>(in, rows, k_begin + k, length, wide, after,
                                                         traversal, begin, out, out_stride);
              });
}

// out[r] = accumulator[r] + in[r][k_begin..k_begin + k_count) x panel, for some rows of a batch or
// for its single row, which is one among others for dot products of pairs. Weights that do not stay
// in a cache are prefetched: `next` is the panel that is read after this one, and null for weights
// that do.
template <int kVectors, int kStride = kVectors, class Rows, class T>
static void MultiplyPanel(Rows in, int64_t rows, bool single_row, int64_t k_begin, int64_t k_count,
                          const T* panel, const T* next, Traversal traversal,
                          Accumulator accumulator, float* out, int64_t out_stride) {
  if constexpr (sizeof(*in[0]) == sizeof(float)) {
    if (single_row) {
      return MultiplyTile<1, kVectors, kStride, true>(in, k_begin, k_count, panel, traversal,
                                                      accumulator, out, out_stride);
    }
  }
  MultiplyRows<kVectors, kStride>(in, rows, k_begin, k_count, panel, next, traversal, accumulator,
                                  out, out_stride);
}

// The same with a panel of so many vectors, of which the first `used` have weights, or more: the
// others' products are not needed.
template <class Rows, class T>
static inline void Multiply(int vectors, int64_t used, Rows in, int64_t rows, bool single_row,
                            int64_t k_begin, int64_t k_count, const T* panel, const T* next,
                            Traversal traversal, Accumulator accumulator, float* out,
                            int64_t out_stride) {
  const auto multiply = [&](auto width, auto stride) {
    MultiplyPanel<decltype(width)::value, decltype(stride)::value>(in, rows, single_row, k_begin,
                                                                   k_count, panel, next, traversal,
                                                                   accumulator, out, out_stride);
  };
  switch (vectors) {
    case 3: return multiply(Count<3>{}, Count<3>{});
    case 4:
      switch (ComputedVectors(4, used)) {
        case 1: return multiply(Count<1>{}, Count<4>{});
        case 2: return multiply(Count<2>{}, Count<4>{});
      }
      return multiply(Count<4>{}, Count<4>{});
    case 5: return multiply(Count<5>{}, Count<5>{});
    case 6: return multiply(Count<6>{}, Count<6>{});
  }
}

}  // namespace jp::cpu::JP_ISA
