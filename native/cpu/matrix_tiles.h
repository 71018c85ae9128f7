// SPDX-License-Identifier: Apache-2.0
// Products of bfloat16 on AMX's tile registers: rows times a packed panel.
//
// A tile has up to 16 rows of 64 bytes. The left operand's are rows of 16 pairs of values, the
// sums' are rows of a vector, and those of the weights are a panel's vector of so many pairs of
// rows of weights, as they lie. Without AVX-512 the instructions' twin in C++ runs in their place:
// tests build it, on processors that have none.
#pragma once

#include "native/cpu/gemm.h"

namespace jp::cpu::JP_ISA {

#if JP_VECTOR_BYTES == 64

inline constexpr int kTileHeight = 16;  // rows of a tile
inline constexpr int kTilePairs = 16;   // pairs in a row of one

// The rows of the left operand's two tiles, and the pairs in each of them: rows of weights' tiles.
struct TileShape {
  int rows[2];
  int pairs;
  bool operator==(const TileShape& other) const {
    return rows[0] == other.rows[0] && rows[1] == other.rows[1] && pairs == other.pairs;
  }
};

// The roles of the eight registers, for two tiles of rows by two of columns, or one by four.
inline constexpr int kSums = 0, kLeft = 4, kRight = 6, kSpareRight = 5;

// What ldtilecfg reads.
struct TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  explicit TileConfiguration(const TileShape& shape) {
    const bool two = shape.rows[1] > 0;
    const auto left_bytes = static_cast<uint16_t>(4 * shape.pairs);
    for (int i = 0; i < 4; ++i) Set(kSums + i, shape.rows[two && i >= 2], kLineBytes);
    Set(kLeft, shape.rows[0], left_bytes);
    Set(kSpareRight, two ? shape.rows[1] : shape.pairs, two ? left_bytes : kLineBytes);
    Set(kRight, shape.pairs, kLineBytes);
    Set(kRight + 1, shape.pairs, kLineBytes);
  }

 private:
  void Set(int tile, int tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfiguration) == 64);

#if defined(__AVX512F__) && !defined(JP_TWIN_TILES)

// By name, as compilers for AVX-512 alone do not know of them.
struct TileRegisters {
  void Configure(const TileConfiguration& to) { asm volatile("ldtilecfg %0" : : "m"(to)); }
  void Release() { asm volatile("tilerelease"); }
  template <int kTile>
  void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTo, int kA, int kB>
  void Dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kTo), "i"(kA), "i"(kB));
  }
};

#else

struct TileRegisters {
  uint8_t palette = 0;
  int rows[8] = {}, bytes[8] = {};
  alignas(64) char at[8][kTileHeight][kLineBytes];

  // All tiles are zero afterwards.
  void Configure(const TileConfiguration& to) {
    palette = to.palette;
    for (int i = 0; i < 8; ++i) rows[i] = to.rows[i], bytes[i] = to.row_bytes[i];
    std::memset(at, 0, sizeof at);
  }
  void Release() { palette = 0; }
  template <int kTile>
  void Zero() {
    Use(kTile);
    std::memset(at[kTile], 0, sizeof at[kTile]);
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    Zero<kTile>();
    for (int r = 0; r < rows[kTile]; ++r) {
      std::memcpy(at[kTile][r], static_cast<const char*>(from) + r * stride, bytes[kTile]);
    }
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    Use(kTile);
    for (int r = 0; r < rows[kTile]; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride, at[kTile][r], bytes[kTile]);
    }
  }
  // The products of a row of pairs are added up before they are added to the sum.
  template <int kTo, int kA, int kB>
  void Dot() {
    Use(kTo), Use(kA), Use(kB);
    const bool fits = rows[kTo] == rows[kA] && bytes[kTo] == bytes[kB] && bytes[kA] == 4 * rows[kB];
    if (!fits) __builtin_trap();
    for (int m = 0; m < rows[kTo]; ++m) {
      for (int n = 0; n < bytes[kTo] / 4; ++n) {
        float sum = 0;
        for (int k = 0; k < bytes[kA] / 2; ++k) {
          sum = Flushed(sum + Value(kA, m, k) * Value(kB, k / 2, 2 * n + k % 2));
        }
        float old;
        std::memcpy(&old, at[kTo][m] + 4 * n, sizeof old);
        old = Flushed(Flushed(old) + sum);
        std::memcpy(at[kTo][m] + 4 * n, &old, sizeof old);
      }
    }
  }

 private:
  // As the processor does where a tile is not configured.
  void Use(int tile) const {
    if (palette == 0 || rows[tile] == 0) __builtin_trap();
  }
  static float Flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x; }
  float Value(int tile, int row, int i) const {
    uint16_t half;
    std::memcpy(&half, at[tile][row] + 2 * i, sizeof half);
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return Flushed(value);
  }
};

#endif

// The registers while a worker multiplies. It gives them back: to the system, a thread with tiles
// in use has another 8 KiB of state.
class MatrixTiles : public TileRegisters {
 public:
  MatrixTiles() = default;
  MatrixTiles(const MatrixTiles&) = delete;
  ~MatrixTiles() {
    if (shape_.pairs > 0) Release();
  }
  void Take(const TileShape& shape) {
    if (shape == shape_) return;
    shape_ = shape;
    Configure(TileConfiguration(shape));
  }

 private:
  TileShape shape_ = {};
};

// A block of a product: kRowTiles tiles of rows by kColumns vectors of a panel, over `steps` times
// as many pairs as the tiles have.
template <int kRowTiles, int kColumns>
struct TileBlock {
  MatrixTiles& tiles;
  RoundedRows in;        // from the first of the pairs on
  const bfloat16* from;  // weights
  int64_t vectors;       // of a panel
  int pairs;

  static constexpr int Left(int row) { return row == 0 ? kLeft : kSpareRight; }
  static constexpr int Right(int column) {
    return kRowTiles == 2 || column % 3 < 2 ? kRight + column % 3 : kSpareRight;
  }
  static constexpr int Sum(int row, int column) { return kSums + 2 * row + column; }

  // Calls f(Count<row>, Count<column>) for each of the sums.
  template <class F>
  [[gnu::always_inline]] static void ForSums(const F& f) {
    ForColumns([&](auto column) {
      f(Count<0>{}, column);
      if constexpr (kRowTiles == 2) f(Count<1>{}, column);
    });
  }
  template <class F>
  [[gnu::always_inline]] static void ForColumns(const F& f) {
    f(Count<0>{});
    if constexpr (kColumns > 1) f(Count<1>{});
    if constexpr (kColumns > 2) f(Count<2>{});
    if constexpr (kColumns > 3) f(Count<3>{});
  }

  void Multiply(int64_t steps, Traversal traversal, Accumulator accumulator, float* out,
                int64_t out_stride, const char* prefetched) const {
    constexpr int64_t kFloat = sizeof(float);
    ForSums([&](auto row, auto column) {
      constexpr int r = decltype(row)::value, c = decltype(column)::value;
      if (accumulator.at == nullptr) return tiles.Zero<Sum(r, c)>();
      tiles.Load<Sum(r, c)>(accumulator.at + r * kTileHeight * accumulator.stride + c * kLanes,
                            accumulator.stride * kFloat);
    });
    const bool ahead = traversal == Traversal::kForwards;
    const int64_t lines = prefetched == nullptr ? 0 : pairs * vectors;
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t pair = (ahead ? i : steps - 1 - i) * pairs;
      for (int64_t l = 0; l < lines; ++l, prefetched += kLineBytes) PrefetchLine<false>(prefetched);
      const RoundedRows left = {in.at + 2 * pair, in.stride};
      tiles.Load<Left(0)>(left.at, 2 * left.stride);
      if constexpr (kRowTiles == 2) tiles.Load<Left(1)>(left[kTileHeight], 2 * left.stride);
      ForColumns([&](auto column) {
        constexpr int c = decltype(column)::value;
        tiles.Load<Right(c)>(from + 2 * (pair * vectors + c) * kLanes, vectors * kLineBytes);
        tiles.Dot<Sum(0, c), Left(0), Right(c)>();
        if constexpr (kRowTiles == 2) tiles.Dot<Sum(1, c), Left(1), Right(c)>();
      });
    }
    ForSums([&](auto row, auto column) {
      constexpr int r = decltype(row)::value, c = decltype(column)::value;
      tiles.Store<Sum(r, c)>(out + r * kTileHeight * out_stride + c * kLanes, out_stride * kFloat);
    });
  }
};

// As Multiply in gemm.h, of k_count values from k_begin on. Those of a row that fill no tile,
// behind the others, are tiles of another shape.
static inline void Multiply(MatrixTiles& tiles, int vectors, int64_t used, RoundedRows in,
                            int64_t rows, int64_t k_begin, int64_t k_count, const bfloat16* panel,
                            const bfloat16* next, Traversal traversal, Accumulator accumulator,
                            float* out, int64_t out_stride) {
  constexpr int64_t kTileK = 2 * kTilePairs;
  const int64_t whole = k_count / kTileK * kTileK;
  const int computed = ComputedVectors(vectors, used);
  const auto part = [&](int64_t k, int64_t count, int pairs, Accumulator begin) {
    for (int64_t r = 0; r < rows; r += 2 * kTileHeight) {
      const int64_t here = rows - r < 2 * kTileHeight ? rows - r : 2 * kTileHeight;
      const int first = here < kTileHeight ? static_cast<int>(here) : kTileHeight;
      tiles.Take({{first, static_cast<int>(here) - first}, pairs});
      const auto block = [&](auto row_tiles, auto columns, int c) {
        const TileBlock<decltype(row_tiles)::value, decltype(columns)::value> of = {
            tiles, RoundedRows{in.at + k_begin + k, in.stride} + r,
            panel + (k * vectors + 2 * c) * kLanes, vectors, pairs};
        Accumulator sums = begin;
        if (sums.at != nullptr) sums.at += r * sums.stride + c * kLanes;
        const char* ahead = reinterpret_cast<const char*>(next);
        if (r > 0 || c > 0) ahead = nullptr;
        if (ahead != nullptr) ahead += k / 2 * vectors * kLineBytes;
        of.Multiply(count / (2 * pairs), traversal, sums, out + r * out_stride + c * kLanes,
                    out_stride, ahead);
      };
      const int most = here > kTileHeight ? 2 : 4;
      for (int c = 0; c < computed; c += most) {
        const int width = computed - c < most ? computed - c : most;
        if (here > kTileHeight) {
          width == 2 ? block(Count<2>{}, Count<2>{}, c) : block(Count<2>{}, Count<1>{}, c);
          continue;
        }
        switch (width) {
          case 1: block(Count<1>{}, Count<1>{}, c); break;
          case 2: block(Count<1>{}, Count<2>{}, c); break;
          case 3: block(Count<1>{}, Count<3>{}, c); break;
          case 4: block(Count<1>{}, Count<4>{}, c); break;
        }
      }
    }
  };
  const Accumulator so_far = {out, out_stride};
  const auto rest = static_cast<int>(k_count - whole) / 2;
  const bool ahead = traversal == Traversal::kForwards;
  if (!ahead && rest > 0) part(whole, 2 * rest, rest, accumulator);
  if (whole > 0) part(0, whole, kTilePairs, ahead || rest == 0 ? accumulator : so_far);
  if (ahead && rest > 0) part(whole, 2 * rest, rest, whole == 0 ? accumulator : so_far);
}

// By either of the units.
static inline void MultiplyByUnits(Units units, MatrixTiles& tiles, int vectors, int64_t used,
                                   RoundedRows in, int64_t rows, int64_t k_begin, int64_t k_count,
                                   const bfloat16* panel, const bfloat16* next, Traversal traversal,
                                   Accumulator accumulator, float* out, int64_t out_stride) {
  if (units == Units::kTiles) {
    Multiply(tiles, vectors, used, in, rows, k_begin, k_count, panel, next, traversal, accumulator,
             out, out_stride);
  } else {
    Multiply(vectors, used, in, rows, false, k_begin, k_count, panel, next, traversal, accumulator,
             out, out_stride);
  }
}

#else

class MatrixTiles {};

#endif

}  // namespace jp::cpu::JP_ISA
