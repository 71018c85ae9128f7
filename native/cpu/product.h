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
inline constexpr int64_t kLineBytes = 64;  // of a cache

// Asks for a cache line that is soon read, or written.
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
  bool far = false;  // from the caches: a tile asks for what the next one, below it, is added to
};

// Which end of a panel comes first. Whoever reads it again and again takes turns: it finds in the
// L1 cache what came last.
enum class Order { kForwards, kBackwards };

// Cache lines to ask for while a tile works, so many for each pair of rows of its weights.
struct Ask {
  const char* from;
  int64_t lines;
};

// out[m] = start[m] + in[m][from..from + depth) x panel; depth is even. A row alone has too few
// sums to hide the latency of an addition: it gets a second set, and must have all of its depth at
// once.
template <int M, int kVectors, bool kAlone, class T>
static void MultiplyTile(Rows in, int64_t from, int64_t depth, const T* panel, Order order,
                         Start start, float* out, int64_t out_stride, Ask ask = {}) {
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
  if (start.far) {
    JP_UNROLL
    for (int m = M; m < 2 * M; ++m) {
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        const float* vector = start.at + m * start.stride + c * kLanes;
        PrefetchLine<true>(reinterpret_cast<const char*>(vector));
      }
    }
  }
  const int64_t step = order == Order::kForwards ? 2 : -2;
  for (int64_t k = order == Order::kForwards ? 0 : depth - 2; 0 <= k && k < depth; k += step) {
    const T* pair = panel + k * (kVectors * kLanes);
    even.template Add<0>(row, k, pair);
    (kAlone ? odd : even).template Add<1>(row, k + 1, pair);
    for (int64_t i = 0; !kAlone && i < ask.lines; ++i, ask.from += kLineBytes) {
      PrefetchLine<false>(ask.from);
    }
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

// All rows of a batch times a panel, in tiles of at most kRows, which meanwhile ask for as many
// weights from `next` on, if that is not null.
template <int kVectors, int kRows, class T, class Next>
static void MultiplyTiles(Rows in, int64_t rows, int64_t from, int64_t depth, const T* panel,
                          const Next* next, Order order, Start start, float* out,
                          int64_t out_stride) {
  constexpr int64_t kLines = 2 * kVectors * kLanes * sizeof(Next) / kLineBytes;  // in two rows
  const int64_t tiles = (rows + kRows - 1) / kRows;
  int64_t left = next == nullptr || tiles == 1 ? 0 : kLines;
  Ask ask{reinterpret_cast<const char*>(next), (left + tiles - 1) / tiles};
  ForTiles<kRows>(rows, [&](auto height, int64_t r) {
    Start here = start;
    if (here.at != nullptr) here.at += r * here.stride;
    if (ask.lines > left) ask.lines = left;
    MultiplyTile<decltype(height)::value, kVectors, false>(in + r, from, depth, panel, order, here,
                                                           out + r * out_stride, out_stride, ask);
    left -= ask.lines;
    ask.from += ask.lines * (depth / 2) * kLineBytes;
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

// Where the weights begin that are read after the part of a panel at row k: in the same panel, or
// in `next`. Null if that is.
template <class T>
static inline const T* AfterPart(const T* panel, const T* next, int64_t width, int64_t k,
                                 int64_t depth, int64_t part, Order order) {
  const int64_t last = (depth - 1) / part * part;
  if (next == nullptr) return nullptr;
  if (order == Order::kForwards) return k < last ? panel + (k + part) * width : next;
  return k > 0 ? panel + (k - part) * width : next + last * width;
}

template <int kVectors>
static void MultiplyRows(Rows in, int64_t rows, int64_t from, int64_t depth, const float* panel,
                         const float* next, Order order, Start start, float* out,
                         int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int64_t kWidth = kVectors * kLanes, kDepth = kPartBytes / 8 / kWidth * 2;
  ForDepths(depth, rows <= kRows ? depth : kDepth, order, start, out, out_stride,
            [&](int64_t k, int64_t length, Start begin) {
              const float* after = AfterPart(panel, next, kWidth, k, depth, kDepth, order);
              MultiplyTiles<kVectors, kRows>(in, rows, from + k, length, panel + k * kWidth, after,
                                             order, begin, out, out_stride);
            });
}

// And widened once beforehand.
template <int kVectors>
static void MultiplyRows(Rows in, int64_t rows, int64_t from, int64_t depth, const bfloat16* panel,
                         const bfloat16* next, Order order, Start start, float* out,
                         int64_t out_stride) {
  constexpr int kRows = TileRows(kVectors, kRegisters, 4);
  constexpr int kNarrowRows = TileRows(kVectors, kRegisters, 2);
  constexpr int64_t kWidth = kVectors * kLanes, kDepth = 128;
  if (rows < kWidenedRows) {
    return MultiplyTiles<kVectors, kNarrowRows>(in, rows, from, depth, panel, next, order, start,
                                                out, out_stride);
  }
  alignas(64) float wide[kDepth * kWidth];
  ForDepths(depth, kDepth, order, start, out, out_stride,
            [&](int64_t k, int64_t length, Start begin) {
              const bfloat16* part = panel + k * kWidth;
              const bfloat16* after = AfterPart(panel, next, kWidth, k, depth, kDepth, order);
              for (int64_t i = 0; i < length; i += 2) {
                float* to = wide + i * kWidth;
                for (int c = 0; c < kVectors; ++c, to += kLanes) {
                  Store(to, LoadWeights<kVectors, 0>(part + i * kWidth, c));
                  Store(to + kWidth, LoadWeights<kVectors, 1>(part + i * kWidth, c));
                }
              }
              MultiplyTiles<kVectors, kRows>(in, rows, from + k, length, wide, after, order, begin,
                                             out, out_stride);
            });
}

// out[r] = start[r] + in[r][from..from + depth) x panel for some rows of a batch, or for its only
// one, `alone`, which must have all of its depth at once. Weights that do not stay in a cache are
// asked for ahead: `next` is the panel read after this one, and null for weights that do.
template <int kVectors, class T>
static void MultiplyPanel(Rows in, int64_t rows, bool alone, int64_t from, int64_t depth,
                          const T* panel, const T* next, Order order, Start start, float* out,
                          int64_t out_stride) {
  if (alone) {
    MultiplyTile<1, kVectors, true>(in, from, depth, panel, order, start, out, out_stride);
  } else {
    MultiplyRows<kVectors>(in, rows, from, depth, panel, next, order, start, out, out_stride);
  }
}

template <class T>
static inline void Multiply(int vectors, Rows in, int64_t rows, bool alone, int64_t from,
                            int64_t depth, const T* panel, const T* next, Order order, Start start,
                            float* out, int64_t out_stride) {
  switch (vectors) {
    case 3:
      return MultiplyPanel<3>(in, rows, alone, from, depth, panel, next, order, start, out,
                              out_stride);
    case 4:
      return MultiplyPanel<4>(in, rows, alone, from, depth, panel, next, order, start, out,
                              out_stride);
    case 5:
      return MultiplyPanel<5>(in, rows, alone, from, depth, panel, next, order, start, out,
                              out_stride);
    case 6:
      return MultiplyPanel<6>(in, rows, alone, from, depth, panel, next, order, start, out,
                              out_stride);
  }
}

}  // namespace jp::cpu::JP_ISA
