// SPDX-License-Identifier: Apache-2.0
// The cells of cells.def, and what is known of each at run time.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <string_view>
#endif

#define JP_CELL(name, Cell)  // here for the structs alone
#include "native/cells/cells.def"
#undef JP_CELL

namespace jp {

enum class CellKind {
#define JP_CELL(name, Cell) k##Cell,
#include "native/cells/cells.def"
#undef JP_CELL
};

struct CellTraits {
  const char* name;
  CellKind kind;
  int gates;      // G
  int residuals;  // values a unit and step that the backward pass reads
  int states;     // h and those that a unit keeps to itself
  bool reset_after;
};

inline constexpr CellTraits kCells[] = {
#define JP_CELL(name, Cell) \
  {#name, CellKind::k##Cell, Cell::kGates, Cell::kResiduals, Cell::kStates, Cell::kResetAfter},
#include "native/cells/cells.def"
#undef JP_CELL
};

// The most states of any cell.
inline constexpr int kMostStates = [] {
  int most = 0;
  for (const CellTraits& cell : kCells) most = cell.states > most ? cell.states : most;
  return most;
}();

// The most gates of any cell.
inline constexpr int kMostGates = [] {
  int most = 0;
  for (const CellTraits& cell : kCells) most = cell.gates > most ? cell.gates : most;
  return most;
}();

#if !defined(__CUDACC_RTC__)
// The traits of the cell called `name`, or null.
constexpr const CellTraits* FindCell(std::string_view name) {
  for (const CellTraits& cell : kCells) {
    if (name == cell.name) return &cell;
  }
  return nullptr;
}
#endif

}  // namespace jp
