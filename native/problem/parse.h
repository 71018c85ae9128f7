// SPDX-License-Identifier: Apache-2.0
// Problems from attributes, as a custom call or Python has them, and what makes one impossible.
//
// Nothing is trusted: whatever a caller gives, it gets an error in words that says which attribute,
// what was expected, and what came.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>

#include "native/problem/problem.h"

namespace jp {

using Attribute = std::variant<bool, int64_t, std::string>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

struct ParsedProblem {
  Problem problem;                                          // whose sizes may be kUnknownSize
  std::map<std::string, std::string, std::less<>> options;  // strings left for the backend
};

// Throws std::invalid_argument where attributes are missing or wrong, or the problem is impossible.
ParsedProblem ParseProblem(Pass pass, const Attributes& attributes);

// Why the sizes or the parts are impossible; empty if they are possible.
std::string Invalid(const Problem& problem);

// Whether all sizes that the problem's arrays have are known.
bool HasAllSizes(const Problem& problem);

std::string_view NameOf(DType type);
std::string_view NameOf(Part part);

}  // namespace jp
