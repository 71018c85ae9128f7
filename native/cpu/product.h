// The matrix part: a tile of batch rows times a packed panel, with the sums in registers.
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

// A tile's sums. Every loop over one is unrolled whole: only then does it live in registers.
#define JP_UNROLL _Pragma("GCC unroll 16")

template <int M, int kVectors>
struct Sums {
  Vec at[M][kVectors] = {};

  // Adds one step of depth: a value from each row of `in` times a row of weights.
  [[gnu::always_inline]] void Add(const float* in, int64_t stride, const Vec (&weights)[kVectors]) {
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      const Vec x = Broadcast(in[m * stride]);
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) at[m][c] += x * weights[c];
    }
  }

  [[gnu::always_inline]] void AddTo(Vec (&sum)[M][kVectors]) const {
    JP_UNROLL
    for (int m = 0; m < M; ++m) {
      JP_UNROLL
      for (int c = 0; c < kVectors; ++c) sum[m][c] += at[m][c];
    }
  }
};

// Row `kOdd` of a pair of rows of weights.
template <int kOdd, int kVectors>
[[gnu::always_inline]] static inline void LoadRow(const float* pair, Vec (&row)[kVectors]) {
  JP_UNROLL
  for (int c = 0; c < kVectors; ++c) row[c] = Load(pair + (kOdd * kVectors + c) * kLanes);
}

template <int kOdd, int kVectors>
[[gnu::always_inline]] static inline void LoadRow(const bfloat16* pair, Vec (&row)[kVectors]) {
  JP_UNROLL
  for (int c = 0; c < kVectors; ++c) {
    VecU both;
    std::memcpy(&both, pair + 2 * c * kLanes, sizeof both);
    row[c] = (Vec)(kOdd ? both & 0xffff0000u : both << 16);
  }
}

// sum[m] += in[m][0..depth) x panel. `stride` separates the rows of `in`; depth is even.
template <int M, int kVectors, class T>
static inline void MultiplyTile(const float* in, int64_t stride, int64_t depth, const T* panel,
                                Vec (&sum)[M][kVectors]) {
  // A short tile has too few sums to hide the latency of an addition: it gets a second set.
  constexpr bool kTwoChains = M * kVectors < 8;
  Sums<M, kVectors> even, odd;
  for (int64_t k = 0; k < depth; k += 2) {
    const T* pair = panel + k * (kVectors * kLanes);
    Vec row[kVectors];
    LoadRow<0>(pair, row);
    even.Add(in + k, stride, row);
    LoadRow<1>(pair, row);
    (kTwoChains ? odd : even).Add(in + k + 1, stride, row);
  }
  even.AddTo(sum);
  if constexpr (kTwoChains) odd.AddTo(sum);
}

// Rows of a batch whose sums are kept at once: with a chunk of a panel they fit the L1 cache.
inline constexpr int kBlockRows = 48;
inline constexpr int64_t kChunkBytes = 16 << 10;

// sums[r] += in[r][0..depth) x panel for `rows` <= kBlockRows rows. Where several tiles need the
// same weights, the panel is taken in chunks that stay in L1 from one tile to the next.
template <int kVectors, class T>
static inline void Multiply(const float* in, int64_t stride, int rows, int64_t depth,
                            const T* panel, Vec (*sums)[kVectors]) {
  constexpr int kRows = TileRows(kVectors, kRegisters);
  constexpr int64_t kWidth = kVectors * kLanes;
  const int64_t chunk =
      rows <= kRows ? depth : kChunkBytes / static_cast<int64_t>(kWidth * sizeof(T)) / 2 * 2;
  for (int64_t k = 0; k < depth; k += chunk) {
    const int64_t length = depth - k < chunk ? depth - k : chunk;
    ForTiles<kRows>(rows, [&](auto height, int64_t r) {
      constexpr int M = decltype(height)::value;
      Vec(&sum)[M][kVectors] = *reinterpret_cast<Vec(*)[M][kVectors]>(sums + r);
      MultiplyTile<M, kVectors>(in + r * stride + k, stride, length, panel + k * kWidth, sum);
    });
  }
}

// Puts n values at depth k of vector c of a panel, zeros after them.
template <int kVectors>
static inline void PackVector(float* panel, int64_t k, int c, const float* from, int n) {
  Store(panel + (k * kVectors + c) * kLanes, n ? LoadPart(from, n) : Vec{});
}

template <int kVectors>
static inline void PackVector(bfloat16* panel, int64_t k, int c, const bfloat16* from, int n) {
  bfloat16* to = panel + ((k / 2) * kVectors + c) * kLanes * 2 + k % 2;
  for (int lane = 0; lane < kLanes; ++lane) to[2 * lane] = lane < n ? from[lane] : bfloat16{0};
}

// Fills vector c of a panel with the transpose of n rows of `columns` values each.
template <int kVectors, class T>
static inline void PackTransposed(T* panel, int64_t depth, int c, const T* rows, int64_t columns,
                                  int n) {
  constexpr int kBlock = 16;  // columns of a row read at a time: a cache line of floats
  for (int64_t k0 = 0; k0 < depth; k0 += kBlock) {
    const int64_t end = k0 + kBlock < depth ? k0 + kBlock : depth;
    T block[kBlock][kLanes] = {};
    for (int lane = 0; lane < n; ++lane) {
      for (int64_t k = k0; k < end && k < columns; ++k)
        block[k - k0][lane] = rows[lane * columns + k];
    }
    for (int64_t k = k0; k < end; ++k) PackVector<kVectors>(panel, k, c, block[k - k0], kLanes);
  }
}

}  // namespace jp::cpu::JP_ISA
