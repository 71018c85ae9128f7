// SPDX-License-Identifier: Apache-2.0
// operands.def as a table, and the arrays of a problem one after the other.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "native/problem/arrays.h"
#include "native/problem/problem.h"

namespace jp {

enum class OperandType { kElement, kState, kInt32, kBool };
enum class OperandCount { kOne, kPerState, kPerGate };

struct Operand {
  const char* name;
  OperandType type;
  OperandCount count;
  bool is_result;
  std::string_view dimensions;  // letters of operands.def, of the batch-major layout
  Part part;
};

// Calls f(operand, member) for each operand and result of operands.def of a pass, in order; member
// is the field of Arrays: a pointer or, of a count that is not one, an array of pointers. `Arrays`
// is Forward or Backward, const or not.
template <class Arrays, class F>
constexpr void ForEachOperand(Arrays& arrays, const F& f) {
  constexpr bool kIsForward = std::is_same_v<std::remove_const_t<Arrays>, Forward>;
#define JP_TYPE_element OperandType::kElement
#define JP_TYPE_state OperandType::kState
#define JP_TYPE_int32 OperandType::kInt32
#define JP_TYPE_bool OperandType::kBool
#define JP_COUNT_ONE OperandCount::kOne
#define JP_COUNT_PER_STATE OperandCount::kPerState
#define JP_COUNT_PER_GATE OperandCount::kPerGate
#define JP_PART(part)
#define JP_VISIT(name, type, count, is_result, dimensions, part)                         \
  f(Operand{#name, JP_TYPE_##type, JP_COUNT_##count, is_result, dimensions, Part::part}, \
    arrays.name);
#define JP_OPERAND(pass, name, type, count, dimensions, part) \
  JP_VISIT_##pass(name, type, count, false, dimensions, part)
#define JP_RESULT(pass, name, type, count, dimensions, part) \
  JP_VISIT_##pass(name, type, count, true, dimensions, part)
#define JP_VISIT_tangent(...)
  if constexpr (kIsForward) {
#define JP_VISIT_forward(...) JP_VISIT(__VA_ARGS__)
#define JP_VISIT_backward(...)
#include "jax_persistent/problem/operands.def"
#undef JP_VISIT_forward
#undef JP_VISIT_backward
  } else {
#define JP_VISIT_forward(...)
#define JP_VISIT_backward(...) JP_VISIT(__VA_ARGS__)
#include "jax_persistent/problem/operands.def"
#undef JP_VISIT_forward
#undef JP_VISIT_backward
  }
#undef JP_TYPE_element
#undef JP_TYPE_state
#undef JP_TYPE_int32
#undef JP_TYPE_bool
#undef JP_COUNT_ONE
#undef JP_COUNT_PER_STATE
#undef JP_COUNT_PER_GATE
#undef JP_PART
#undef JP_VISIT
#undef JP_OPERAND
#undef JP_RESULT
#undef JP_VISIT_tangent
}

// One array as a caller gives it.
struct ArrayType {
  std::string name;  // numbered if it is one of several: "initial_state[1]"
  OperandType type;
  std::vector<int64_t> sizes;
  std::string dimensions;  // a letter of operands.def for each size, as they lie in memory
};

// The arrays that a problem's pass reads and makes, in order. Sizes that are not known are -1.
struct ArrayTypes {
  std::vector<ArrayType> operands, results;
};
ArrayTypes ArrayTypesOf(const Problem& problem);

// The arrays that a problem has of an operand that is there.
int CountOf(const Operand& operand, const Problem& problem);

// The size of a dimension of operands.def; -1 if it is not known.
int64_t SizeOf(const Problem& problem, char dimension);

}  // namespace jp
