// SPDX-License-Identifier: Apache-2.0
// The arrays of a plan as the library lists them, each in memory of exactly its size.
#ifndef TESTS_C_ARRAYS_H_
#define TESTS_C_ARRAYS_H_

#include "jax_persistent.h"

typedef struct {
  jp_array_info info;
  void* data;
} array;

typedef struct {
  array list[32];
  size_t count;
} arrays;

// A number in -1 to 1, of a fixed sequence.
double noise(void);

// Operands of floating-point numbers are noise, results full of NaN, all else is zero.
arrays arrays_of(const jp_plan* plan);
void arrays_free(arrays* all);

// NULL if there is none of that name.
array* find(arrays* all, const char* name);
size_t length_of(const array* one);
double get(const array* one, size_t index);
void set(array* one, size_t index, double value);
// A copy as doubles, to be freed; NULL if `one` is.
double* doubles(const array* one);

// The structs of calls, by the names of their fields.
jp_forward_arrays forward_of(arrays* all);
jp_backward_arrays backward_of(arrays* all);

// Where calls are enqueued; NULL on a CPU.
extern void* stream;

// Runs a plan on a workspace of exactly the bytes that it asks for.
jp_status run_forward(const jp_plan* plan, const jp_forward_arrays* call);
jp_status run_backward(const jp_plan* plan, const jp_backward_arrays* call);

#endif
