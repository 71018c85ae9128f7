// What the native code knows of every cell. Legend: T time steps, B batch, H hidden units, G gates.
//
// A cell is a struct of constants and two functions over a value type V, which is a float on a GPU
// and a SIMD vector on a CPU; `Math` has V as its Value, and Sigmoid, Tanh, Relu and Step (1 where
// positive, else 0) for it. Matrix products know nothing of cells, cells nothing of products.
//
//   forward:  x[G], product[G], state[kStates] in and out (state[0] is h), saved[kSaved] out
//   backward: saved[kSaved], previous[kStates] (states before the step), h (after it);
//             d_state[kStates] in: gradients of the states after the step;
//             d_state out: gradients of the states before it, without the product's share;
//             dx[G] out; d_product[G] out, where kSeparateProduct says that it differs from dx.
#pragma once

#include <array>
#include <string_view>

#if defined(__CUDACC__)
#define JP_HOST_DEVICE __host__ __device__
#else
#define JP_HOST_DEVICE
#endif

namespace jp {

enum class CellKind { kLstm, kGru, kElmanTanh, kElmanRelu };

struct CellTraits {
  std::string_view name;
  CellKind kind;
  int gates;
  int saved;
  int states;
  bool separate_product;
};

inline constexpr std::array<CellTraits, 4> kCells = {{
    {"lstm", CellKind::kLstm, 4, 5, 2, false},
    {"gru", CellKind::kGru, 3, 4, 1, true},
    {"elman_tanh", CellKind::kElmanTanh, 1, 0, 1, false},
    {"elman_relu", CellKind::kElmanRelu, 1, 0, 1, false},
}};

// The traits of the cell called `name`, or null.
constexpr const CellTraits* FindCell(std::string_view name) {
  for (const CellTraits& cell : kCells) {
    if (cell.name == name) return &cell;
  }
  return nullptr;
}

}  // namespace jp
