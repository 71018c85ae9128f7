// SPDX-License-Identifier: Apache-2.0
// The choice of an instruction set: what JAX_PERSISTENT_ISA names, or an error that says why not.
// Takes the expected name, or "error" and what the message must hold.
#include <exception>
#include <string>

#include "native/cpu/isa.h"
#include "tests/native/check.h"

int main(int argc, char** argv) {
  const std::string expected = argc > 1 ? argv[1] : "";
  try {
    const std::string got = jp::cpu::ChosenIsa().name;
    CHECK(got == expected, got, expected);
  } catch (const std::exception& error) {
    CHECK(expected == "error", error.what());
    CHECK(std::string(error.what()).find(argc > 2 ? argv[2] : "") != std::string::npos,
          error.what());
  }
  return jp::test::Finish("isa");
}
