// SPDX-License-Identifier: Apache-2.0
// How a packed kernel lies in memory: [panels][rows][width], the order in which a CPU's products
// read it. jax_persistent/problem/packed.py has the same sizes.
//
// Of a kernel [rows, gates * units], a vector is `lanes` neighbouring units of one gate. Vectors
// are in the order of the units and, of the same units, of the gates. A panel is so many vectors of
// all rows, and begins with a unit's first gate: any division of the panels is one of the units.
// The layout depends on neither the batch, nor the steps, nor the number of workers. Rows are made
// even; in 16-bit types two rows are interleaved, [rows/2][width][2]. Padding is zero.
#pragma once

#include <cstdint>
#include <numeric>

#include "native/problem/problem.h"

namespace jp {

// Vectors across a panel.
constexpr int PanelVectors(int gates) { return gates == 3 || gates == 5 || gates == 6 ? gates : 4; }

// Vectors of units whose gates fill whole panels, and as few as that.
constexpr int PanelUnits(int gates) { return std::lcm(gates, PanelVectors(gates)) / gates; }

// Panels of a kernel of so many units.
constexpr int64_t PanelCount(int gates, int64_t units, int64_t lanes) {
  const int64_t vectors = (units + lanes - 1) / lanes * gates;
  return (vectors + PanelVectors(gates) - 1) / PanelVectors(gates);
}

constexpr int64_t PackedRows(int64_t rows) { return (rows + 1) / 2 * 2; }

// Kernels to be packed: [kernels, rows, gates * units], each by itself.
struct Packing {
  DType dtype;
  int gates;
  int64_t kernels, rows, units;
  int64_t lanes;
};

// What all kernels are packed into, in values.
constexpr int64_t PackedValues(const Packing& packing) {
  return packing.kernels * PanelCount(packing.gates, packing.units, packing.lanes) *
         PackedRows(packing.rows) * PanelVectors(packing.gates) * packing.lanes;
}

// The same of a matrix [rows, columns] that a step function multiplies by: it has one gate.
constexpr int64_t PackedMatrixValues(int64_t rows, int64_t columns, int64_t lanes) {
  return PackedValues({DType::kFloat32, 1, 1, rows, columns, lanes});
}

}  // namespace jp
