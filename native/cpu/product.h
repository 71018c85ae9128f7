// The matrix part: batch rows times a packed panel, a tile at a time, with the sums in registers.
//
// A panel is [K][vectors][lanes] floats, or [K/2][vectors][lanes][2] bfloat16: two rows of weights
// interleaved, which widens to float with a shift and a mask, and is the order that bfloat16 dot
// product instructions take.
#pragma once

#include "native/cpu/simd.h"
#include "native/plan/cpu_plan.h"

namespace jp::cpu::JP_ISA {

inline constexpr int kRegisters = JP_VECTOR_REGISTERS;

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

// Vector c of row kOdd of a pair of rows of weights.
template <int kVectors, int kOdd>
[[gnu::always_inline]] static inline Vec LoadWeights(const float* pair, int c) {
  return Load(pair + (kOdd * kVectors + c) * kLanes);
}

template <int kVectors, int kOdd>
[[gnu::always_inline]] static inline Vec LoadWeights(const bfloat16* pair, int c) {
  VecU both;
  std::memcpy(&both, pair + 2 * c * kLanes, sizeof both);
  return (Vec)(kOdd ? HighHalves(both) : both << 16);
}

// Rows of the left operand, wherever each begins.
using Rows = const float* const*;

// A tile's sums. Every loop over one is unrolled whole: only then does it live in registers.
#define JP_UNROLL _Pragma("GCC unroll 16")

template <int M, int kVectors>
struct Sums {
  Vec at[M][kVectors] = {};

  // Adds one step of depth: a value from each row of `in` times row kOdd of a pair of rows of
  // weights. Whichever are fewer, values or weights, wait in registers.
  template <int kOdd, class T>
  [[gnu::always_inline]] void Add(Rows in, int64_t k, const T* pair) {
    if constexpr (kVectors <= M) {
      Vec weights[kVectors];
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) weights[c] = LoadWeights<kVectors, kOdd>(pair, c);
      JP_UNROLL
      for (int m = 0; m < M; ++m) {
        const Vec x = Broadcast(in[m][k]);
        JP_UNROLL
        for (int c = 0; c < kVectors; ++c) at[m][c] = MulAdd(at[m][c], x, weights[c]);
      }
    } else {
      Vec x[M];
      JP_UNROLL
      for (int m = 0; m < M; ++m) x[m] = Broadcast(in[m][k]);
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        const Vec weights = LoadWeights<kVectors, kOdd>(pair, c);
        JP_UNROLL
        for (int m = 0; m < M; ++m) at[m][c] = MulAdd(at[m][c], x[m], weights);
      }
    }
  }
};

// What a product is added to: a row, the same for every row of the result or `stride` apart.
struct Start {
  const float* at;  // null: zero
  int64_t stride;
};

// Which end of a panel comes first. Whoever reads it again and again takes turns: it finds in the
// L1 cache what came last.
enum class Order { kForwards, kBackwards };

// out[m] = start[m] + in[m][from..from + depth) x panel; depth is even. A row alone has too few
// sums to hide the latency of an addition: it gets a second set, and must have all of its depth at
// once.
template <int M, int kVectors, bool kAlone, class T>
static void MultiplyTile(Rows in, int64_t from, int64_t depth, const T* panel, Order order,
                         Start start, float* out, int64_t out_stride) {
  const float* row[M];
  JP_UNROLL
  for (int m = 0; m < M; ++m) row[m] = in[m] + from;
  Sums<M, kVectors> even, odd;
  if (start.at != nullptr) {
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        even.at[m][c] = Load(start.at + m * start.stride + c * kLanes);
      }
    }
  }
  const int64_t step = order == Order::kForwards ? 2 : -2;
  for (int64_t k = order == Order::kForwards ? 0 : depth - 2; 0 <= k && k < depth; k += step) {
    const T* pair = panel + k * (kVectors * kLanes);
    even.template Add<0>(row, k, pair);
    (kAlone ? odd : even).template Add<1>(row, k + 1, pair);
  }
  JP_UNROLL
  for (int m = 0; m < M; ++m) {
    JP_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      const Vec sum = kAlone ? even.at[m][c] + odd.at[m][c] : even.at[m][c];
      Store(out + m * out_stride + c * kLanes, sum);
    }
  }
}

// All rows of a batch times a panel, in tiles of at most kRows.
template <int kVectors, int kRows, class T>
static void MultiplyTiles(Rows in, int64_t rows, int64_t from, int64_t depth, const T* panel,
                          Order order, Start start, float* out, int64_t out_stride) {
  ForTiles<kRows>(rows, [&](auto height, int64_t r) {
    const Start here{start.at == nullptr ? nullptr : start.at + r * start.stride, start.stride};
    MultiplyTile<decltype(height)::value, kVectors, false>(in + r, from, depth, panel, order, here,
                                                           out + r * out_stride, out_stride);
  });
}

// Calls multiply(first row of weights, number of them, what to add to) for one part of the depth
// after the other.
template <class F>
[[gnu::always_inline]] static inline void ForDepths(int64_t depth, int64_t part, Order order,
                                                    Start start, const float* out,
                                                    int64_t out_stride, const F& multiply) {
  const int64_t parts = (depth + part - 1) / part;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t k = (order == Order::kForwards ? i : parts - 1 - i) * part;
    multiply(k, depth - k < part ? depth - k : part, i == 0 ? start : Start{out, out_stride});
  }
}

// Weights that many tiles read are taken in parts that stay in a cache meanwhile: in L1, or in the
// larger L2 of processors with such vectors, as fewer parts are fewer trips of the sums to memory.
inline constexpr int64_t kPartBytes = kLanes < 16 ? 16 << 10 : 64 << 10;

template <int kVectors>
static void MultiplyRows(Rows in, int64_t rows, int64_t from, int64_t depth, const float* panel,
                         Order order, Start start, float* out, int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int64_t kWidth = kVectors * kLanes, kDepth = kPartBytes / 8 / kWidth * 2;
  ForDepths(depth, rows <= kRows ? depth : kDepth, order, start, out, out_stride,
            [&](int64_t k, int64_t length, Start begin) {
              MultiplyTiles<kVectors, kRows>(in, rows, from + k, length, panel + k * kWidth, order,
                                             begin, out, out_stride);
            });
}

// And widened once beforehand.
template <int kVectors>
static void MultiplyRows(Rows in, int64_t rows, int64_t from, int64_t depth, const bfloat16* panel,
                         Order order, Start start, float* out, int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int kNarrowRows = TileRows(kVectors, kRegisters, 2);
  constexpr int64_t kWidth = kVectors * kLanes, kDepth = 128;
  if (rows < kWidenedRows) {
    return MultiplyTiles<kVectors, kNarrowRows>(in, rows, from, depth, panel, order, start, out,
                                                out_stride);
  }
  alignas(64) float wide[kDepth * kWidth];
  ForDepths(depth, kDepth, order, start, out, out_stride,
            [&](int64_t k, int64_t length, Start begin) {
              for (int64_t i = 0; i < length; i += 2) {
                const bfloat16* pair = panel + (k + i) * kWidth;
                float* to = wide + i * kWidth;
                for (int c = 0; c < kVectors; ++c, to += kLanes) {
                  Store(to, LoadWeights<kVectors, 0>(pair, c));
                  Store(to + kWidth, LoadWeights<kVectors, 1>(pair, c));
                }
              }
              MultiplyTiles<kVectors, kRows>(in, rows, from + k, length, wide, order, begin, out,
                                             out_stride);
            });
}

// out[r] = start[r] + in[r][from..from + depth) x panel for all rows of a batch, or for its only
// one, which must have all of its depth at once.
template <int kVectors, class T>
static void MultiplyPanel(Rows in, int64_t rows, int64_t from, int64_t depth, const T* panel,
                          Order order, Start start, float* out, int64_t out_stride) {
  if (rows == 1) {
    MultiplyTile<1, kVectors, true>(in, from, depth, panel, order, start, out, out_stride);
  } else {
    MultiplyRows<kVectors>(in, rows, from, depth, panel, order, start, out, out_stride);
  }
}

template <class T>
static inline void Multiply(int vectors, Rows in, int64_t rows, int64_t from, int64_t depth,
                            const T* panel, Order order, Start start, float* out,
                            int64_t out_stride) {
  switch (vectors) {
    case 3: return MultiplyPanel<3>(in, rows, from, depth, panel, order, start, out, out_stride);
    case 4: return MultiplyPanel<4>(in, rows, from, depth, panel, order, start, out, out_stride);
    case 6: return MultiplyPanel<6>(in, rows, from, depth, panel, order, start, out, out_stride);
  }
}

}  // namespace jp::cpu::JP_ISA
