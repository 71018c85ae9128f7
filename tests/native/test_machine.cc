// SPDX-License-Identifier: Apache-2.0
// What the planner is told of this machine, and what JAX_PERSISTENT_THREADS allows.
// Takes the threads to ask for and those expected, or "error" and what the message must hold; then,
// perhaps, which units bfloat16 has.
#include "native/cpu/machine.h"

#include <exception>
#include <string>

#include "native/cpu/isa.h"
#include "tests/native/check.h"

int main(int argc, char** argv) {
  const std::string asked = argc > 1 ? argv[1] : "", expected = argc > 2 ? argv[2] : "";
  try {
    const jp::cpu::CpuFacts facts = jp::cpu::ThisMachine(asked == "error" ? 1 : std::stoi(asked));
    CHECK(std::to_string(facts.threads) == expected, facts.threads, expected);
    CHECK(facts.vector_lanes == jp::cpu::ChosenIsa().lanes, facts.vector_lanes);
    CHECK(facts.vector_count == jp::cpu::ChosenIsa().registers, facts.vector_count);
    const int units = static_cast<int>(facts.units);
    CHECK(argc <= 3 || std::to_string(units) == argv[3], units);
    CHECK(facts.l2_bytes >= 1 << 16 && facts.l3_bytes >= 0, facts.l2_bytes, facts.l3_bytes);
  } catch (const std::exception& error) {
    CHECK(asked == "error", error.what());
    CHECK(std::string(error.what()).find(expected) != std::string::npos, error.what());
  }
  return jp::test::Finish("machine");
}
