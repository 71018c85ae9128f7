// SPDX-License-Identifier: Apache-2.0
// A problem on an instruction set, by name, and how near its results are to the reference's.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "native/cpu/isa.h"
#include "native/problem/parse.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"

namespace jp::test {

struct Case {
  const cpu::Isa& isa;
  Problem given;

  std::string name() const {
    const Problem& p = given;
    std::string text =
        std::string(isa.name) + " " + std::string(p.cell.name) + " " + std::string(NameOf(p.dtype));
    for (const auto& [letter, size] :
         {std::pair("N", p.groups), std::pair("B", p.batch), std::pair("T", p.steps),
          std::pair("I", p.inputs), std::pair("H", p.hidden)}) {
      text.append(" ").append(letter).append("=").append(std::to_string(size));
    }
    text += NameOf(p.directions);
    if (p.time_major) text += " time-major";
    for (Part part :
         {Part::bias, Part::recurrent_bias, Part::lengths, Part::resets, Part::reset_state}) {
      if (p.has(part)) text.append(" ").append(NameOf(part));
    }
    return text;
  }
};

// `terms` is how many roundings, of either sign and of terms as large as any sum, a value is made
// of.
inline void CheckClose(const Case& c, const char* what, const Buffer& got,
                       const std::vector<double>& expected, double terms = 1) {
  // Float: rounding of sums of this length. Bfloat16: a flip of the last bit, and what grows of it.
  const double relative = c.given.dtype == DType::kFloat32 ? 2e-5 : 1.0 / 32;
  double scale = 1e-3;
  for (double value : expected) {
    scale = std::fmax(scale, terms > 1 ? std::fabs(value) : std::fmin(std::fabs(value), 1));
  }
  const std::vector<double> values = got.values();
  CHECK(values.size() == expected.size(), c.name(), what, values.size(), expected.size());
  for (size_t i = 0; i < values.size() && i < expected.size(); ++i) {
    const double limit = relative * (scale * std::sqrt(terms) + std::fabs(expected[i]));
    CHECK(std::fabs(values[i] - expected[i]) <= limit, c.name(), what, i, values[i], expected[i]);
  }
}

}  // namespace jp::test
