// SPDX-License-Identifier: Apache-2.0
// Weights in the order in which the products read them; see gemm.h.
#pragma once

#include "native/cpu/simd.h"

namespace jp::cpu::JP_ISA {

inline constexpr int64_t kPackedRows = 8;      // rows of weights that are copied at a time,
inline constexpr int64_t kPackedColumns = 64;  // and columns that are transposed

static inline void StorePair(float* pair, int vectors, int c, Vec even, Vec odd) {
  Store(pair + c * kLanes, even);
  Store(pair + (vectors + c) * kLanes, odd);
}

static inline void StorePair(bfloat16* pair, int /*vectors*/, int c, Vec even, Vec odd) {
  const VecU both = (VecU)even >> 16 | (VecU)odd;
  std::memcpy(pair + 2 * c * kLanes, &both, sizeof both);
}

// Fills rows [first, last) of vector c of a panel, which begin at `to`, from n columns of a matrix
// that has `rows` rows, `stride` values apart, and with zeros beside and below them. `first` and
// `last` are even.
template <class T>
static inline void CopyColumns(T* to, int vectors, int c, int64_t first, int64_t last,
                               const T* from, int64_t stride, int64_t rows, int n) {
  for (int64_t k = first; k < last; k += 2) {
    const bool has_even = n > 0 && k < rows, has_odd = n > 0 && k + 1 < rows;
    const Vec even = has_even ? LoadPart(from + k * stride, n) : Vec{};
    const Vec odd = has_odd ? LoadPart(from + (k + 1) * stride, n) : Vec{};
    StorePair(to + (k - first) * vectors * kLanes, vectors, c, even, odd);
  }
}

// The same from n rows, `stride` values apart, of a matrix with `columns` columns, each of which
// becomes a row of the panel. Works on words: a float, or two bfloat16 values.
template <class T>
static inline void TransposeRows(T* to, int vectors, int c, int64_t first, int64_t last,
                                 const T* from, int64_t stride, int64_t columns, int n) {
  constexpr int64_t kPerWord = 4 / sizeof(T), kStep = kPerWord * kLanes;
  T* const to_vector = to + c * kPerWord * kLanes;
  const int64_t row_size = vectors * kPerWord * kLanes;  // of a row of words
  for (int64_t k = first; k < last; k += kStep) {
    const int64_t left = columns - k;
    Vec rows[kLanes] = {};
    if (n == kLanes && left >= kStep) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) {
        std::memcpy(&rows[lane], from + lane * stride + k, sizeof(Vec));
      }
    } else {
      for (int lane = 0; lane < n && left > 0; ++lane) {
        const int64_t here = left < kStep ? left : kStep;
        std::memcpy(&rows[lane], from + lane * stride + k, here * sizeof(T));
      }
    }
    Transpose(rows);
    T* const first_row = to_vector + (k - first) / kPerWord * row_size;
    if (last - k >= kStep) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) std::memcpy(first_row + i * row_size, &rows[i], sizeof(Vec));
    } else {
      for (int i = 0; k + i * kPerWord < last; ++i) {
        std::memcpy(first_row + i * row_size, &rows[i], sizeof(Vec));
      }
    }
  }
}

// Rows of a matrix as columns of `to`, whose rows are `stride` values apart; zeros for those that
// are null.
template <class T>
static void TransposeInto(float* to, int64_t stride, int64_t columns,
                          const T* const (&rows)[kLanes]) {
  for (int64_t k = 0; k < columns; k += kLanes, to += kLanes * stride) {
    const int n = Lanes(columns, k);
    Vec block[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      block[i] = rows[i] == nullptr ? Vec{} : LoadPart(rows[i] + k, n);
    }
    Transpose(block);
    for (int i = 0; i < kLanes; ++i) Store(to + i * stride, block[i]);
  }
}

}  // namespace jp::cpu::JP_ISA
