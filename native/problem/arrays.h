// SPDX-License-Identifier: Apache-2.0
// Pointers to a problem's operands and results by name: Forward::x, Backward::d_outputs, ..., as
// operands.def lists them. Absent arrays are null. A PER_STATE name is an array of
// pointers, and so is a PER_GATE one, of which the problem says how many there are.
//
// Of D directions a layer, whose groups are N: sequences are [N/D,B,T,D,F] or, time-major,
// [N/D,T,B,D,F], x without the D; all else begins with [N/D,D], but for the lengths.
#pragma once

#include "native/cells/cells.h"

namespace jp {

inline constexpr int kMostWeightArrays = 2 * kMostGates;  // of both directions

// Types of operands.def as C++ has them; `element` and `state` are float or a 16-bit type.
#define JP_TYPE_element void
#define JP_TYPE_state void
#define JP_TYPE_int32 int32_t
#define JP_TYPE_bool bool
#define JP_COUNT_ONE
#define JP_COUNT_PER_STATE [kMostStates]
#define JP_COUNT_PER_GATE [kMostWeightArrays]
#define JP_PART(part)
#define JP_OPERAND(pass, name, type, count, dimensions, part) JP_OPERAND_##pass(name, type, count)
#define JP_RESULT(pass, name, type, count, dimensions, part) JP_RESULT_##pass(name, type, count)
#define JP_OPERAND_tangent(name, type, count)
#define JP_RESULT_tangent(name, type, count)

struct Forward {
#define JP_OPERAND_forward(name, type, count) const JP_TYPE_##type* name JP_COUNT_##count{};
#define JP_RESULT_forward(name, type, count) JP_TYPE_##type* name JP_COUNT_##count{};
#define JP_OPERAND_backward(name, type, count)
#define JP_RESULT_backward(name, type, count)
#include "jax_persistent/problem/operands.def"
#undef JP_OPERAND_forward
#undef JP_RESULT_forward
#undef JP_OPERAND_backward
#undef JP_RESULT_backward
};

struct Backward {
#define JP_OPERAND_forward(name, type, count)
#define JP_RESULT_forward(name, type, count)
#define JP_OPERAND_backward(name, type, count) const JP_TYPE_##type* name JP_COUNT_##count{};
#define JP_RESULT_backward(name, type, count) JP_TYPE_##type* name JP_COUNT_##count{};
#include "jax_persistent/problem/operands.def"
#undef JP_OPERAND_forward
#undef JP_RESULT_forward
#undef JP_OPERAND_backward
#undef JP_RESULT_backward
};

#undef JP_TYPE_element
#undef JP_TYPE_state
#undef JP_TYPE_int32
#undef JP_TYPE_bool
#undef JP_COUNT_ONE
#undef JP_COUNT_PER_STATE
#undef JP_COUNT_PER_GATE
#undef JP_PART
#undef JP_OPERAND
#undef JP_RESULT
#undef JP_OPERAND_tangent
#undef JP_RESULT_tangent

}  // namespace jp
