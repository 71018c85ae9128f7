// SPDX-License-Identifier: Apache-2.0
// A check that says where it failed and with what values, and lets the test go on.
#pragma once

#include <iostream>
#include <sstream>
#include <string>

namespace jp::test {

inline int failures = 0;

// Prints a failure; after twenty, one like the others tells nothing new.
inline void Fail(const char* file, int line, const std::string& what) {
  if (++failures <= 20) std::cerr << file << ":" << line << ": " << what << "\n";
}

// A test's exit status, after it has said how it went.
inline int Finish(const char* name) {
  std::cout << name << ": " << (failures ? std::to_string(failures) + " failures" : "passed")
            << std::endl;
  return failures != 0;
}

}  // namespace jp::test

// CHECK(condition, a, b, ..) prints the values after the condition when it is false.
#define CHECK(condition, ...)                            \
  do {                                                   \
    if (!(condition)) {                                  \
      std::ostringstream text_;                          \
      text_ << #condition;                               \
      jp::test::Print(text_ __VA_OPT__(, ) __VA_ARGS__); \
      jp::test::Fail(__FILE__, __LINE__, text_.str());   \
    }                                                    \
  } while (false)

namespace jp::test {

template <class... Values>
void Print(std::ostream& out, const Values&... values) {
  if constexpr (sizeof...(values) > 0) ((out << "; " << values), ...);
}

}  // namespace jp::test
