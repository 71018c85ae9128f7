// SPDX-License-Identifier: Apache-2.0
// Arrays by name: the list that the library gives is all that these know of a problem.
#include "arrays.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

int failures;
void* stream;

int finish(const char* name) {
  printf("%s: %s (%d failures)\n", name, failures ? "FAILED" : "passed", failures);
  return failures != 0;
}

double noise(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (state >> 8) / 8388608.0 - 1;
}

static size_t width_of(jp_dtype dtype) {
  return dtype == JP_BOOL ? 1 : dtype == JP_BFLOAT16 ? 2 : 4;
}

size_t length_of(const array* one) { return one->info.bytes / width_of(one->info.dtype); }

double get(const array* one, size_t index) {
  uint32_t bits = 0;
  float value = 0;
  const size_t width = width_of(one->info.dtype);  // little-endian: a bfloat16 is the upper half
  memcpy((char*)&bits + 4 - width, (const char*)one->data + index * width, width);
  memcpy(&value, &bits, sizeof value);
  return value;
}

void set(array* one, size_t index, double given) {
  const float value = (float)given;
  const size_t width = width_of(one->info.dtype);
  memcpy((char*)one->data + index * width, (const char*)&value + 4 - width, width);
}

double* doubles(const array* one) {
  if (one == NULL) return NULL;
  double* const copy = malloc(length_of(one) * sizeof *copy);
  for (size_t i = 0; i < length_of(one); ++i) copy[i] = get(one, i);
  return copy;
}

arrays arrays_of(const jp_plan* plan) {
  arrays all = {.count = 0};
  CHECK_OK(jp_plan_array_count(plan, &all.count));
  CHECK(all.count <= sizeof all.list / sizeof *all.list, "%zu arrays", all.count);
  for (size_t i = 0; i < all.count; ++i) {
    array* const one = &all.list[i];
    one->info.struct_size = sizeof one->info;
    CHECK_OK(jp_plan_array(plan, i, &one->info));
    size_t bytes = width_of(one->info.dtype);
    for (int32_t d = 0; d < one->info.rank; ++d) bytes *= (size_t)one->info.sizes[d];
    CHECK(bytes == one->info.bytes, "%s: %zu, %zu", one->info.name, bytes, one->info.bytes);
    one->data = malloc(bytes);
    memset(one->data, one->info.is_result ? 0xff : 0, bytes);
    const bool is_number = one->info.dtype != JP_INT32 && one->info.dtype != JP_BOOL;
    for (size_t v = 0; is_number && !one->info.is_result && v < length_of(one); ++v) {
      set(one, v, noise());
    }
  }
  return all;
}

void arrays_free(arrays* all) {
  for (size_t i = 0; i < all->count; ++i) free(all->list[i].data);
}

array* find(arrays* all, const char* name) {
  for (size_t i = 0; i < all->count; ++i) {
    if (strcmp(all->list[i].info.name, name) == 0) return &all->list[i];
  }
  return NULL;
}

typedef struct {
  const char* name;
  size_t offset;
} field;

#define FIELD(name) {#name, offsetof(STRUCT, name)}

#define STRUCT jp_forward_arrays
static const field kForward[] = {
    FIELD(x),         FIELD(input_kernel),     FIELD(bias),           FIELD(input_gates),
    FIELD(lengths),   FIELD(recurrent_kernel), FIELD(recurrent_bias), FIELD(resets),
    FIELD(outputs),   FIELD(reset_state[0]),   FIELD(reset_state[1]), FIELD(initial_state[0]),
    FIELD(residuals), FIELD(initial_state[1]), FIELD(final_state[0]), FIELD(final_state[1])};
#undef STRUCT
#define STRUCT jp_backward_arrays
static const field kBackward[] = {FIELD(x),
                                  FIELD(input_kernel),
                                  FIELD(recurrent_kernel),
                                  FIELD(lengths),
                                  FIELD(resets),
                                  FIELD(reset_state[0]),
                                  FIELD(reset_state[1]),
                                  FIELD(initial_state[0]),
                                  FIELD(initial_state[1]),
                                  FIELD(outputs),
                                  FIELD(residuals),
                                  FIELD(d_outputs),
                                  FIELD(d_final_state[0]),
                                  FIELD(d_final_state[1]),
                                  FIELD(d_x),
                                  FIELD(d_input_kernel),
                                  FIELD(d_bias),
                                  FIELD(d_recurrent_kernel),
                                  FIELD(d_recurrent_bias),
                                  FIELD(d_input_gates),
                                  FIELD(d_recurrent_gates),
                                  FIELD(d_reset_state[0]),
                                  FIELD(d_reset_state[1]),
                                  FIELD(d_initial_state[0]),
                                  FIELD(d_initial_state[1])};

static void fill(arrays* all, const field* fields, size_t count, void* call) {
  for (size_t i = 0; i < all->count; ++i) {
    bool found = false;
    for (size_t f = 0; f < count && !found; ++f) {
      found = strcmp(fields[f].name, all->list[i].info.name) == 0;
      if (found) memcpy((char*)call + fields[f].offset, &all->list[i].data, sizeof(void*));
    }
    CHECK(found, "%s", all->list[i].info.name);
  }
}

jp_forward_arrays forward_of(arrays* all) {
  jp_forward_arrays call = {.struct_size = sizeof call};
  fill(all, kForward, sizeof kForward / sizeof *kForward, &call);
  return call;
}

jp_backward_arrays backward_of(arrays* all) {
  jp_backward_arrays call = {.struct_size = sizeof call};
  fill(all, kBackward, sizeof kBackward / sizeof *kBackward, &call);
  return call;
}

static void* workspace_of(const jp_plan* plan, size_t* bytes) {
  CHECK_OK(jp_plan_workspace_bytes(plan, bytes));
  if (*bytes == 0) return NULL;
  void* const memory = malloc(*bytes);
  memset(memory, 0xff, *bytes);  // NaN: a value that is read before it is written shows
  return memory;
}

jp_status run_forward(const jp_plan* plan, const jp_forward_arrays* call) {
  size_t bytes = 0;
  void* const workspace = workspace_of(plan, &bytes);
  const jp_status status = jp_forward(plan, call, workspace, bytes, stream);
  free(workspace);
  return status;
}

jp_status run_backward(const jp_plan* plan, const jp_backward_arrays* call) {
  size_t bytes = 0;
  void* const workspace = workspace_of(plan, &bytes);
  const jp_status status = jp_backward(plan, call, workspace, bytes, stream);
  free(workspace);
  return status;
}
