// SPDX-License-Identifier: Apache-2.0
// Checks that say where they failed and with what values, and let the test go on.
#ifndef TESTS_C_CHECK_H_
#define TESTS_C_CHECK_H_

#include <stdio.h>

#include "jax_persistent.h"

extern int failures;

// CHECK(condition, format, ...)
#define CHECK(condition, ...)                                         \
  do {                                                                \
    if (!(condition) && ++failures <= 20) {                           \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                   \
      fprintf(stderr, "\n");                                          \
    }                                                                 \
  } while (0)

// Whether a call went well; says what the library says where it did not.
#define CHECK_OK(call)                                                           \
  do {                                                                           \
    const jp_status status_ = (call);                                            \
    CHECK(status_ == JP_OK, "%s: %s", jp_status_name(status_), jp_last_error()); \
  } while (0)

// The test's exit status, after it has said how it went.
int finish(const char* name);

#endif
