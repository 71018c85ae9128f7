// SPDX-License-Identifier: Apache-2.0
// Several threads call with one plan at once, and with one CPU thread a call takes no memory from
// the heap.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1  // slow, and with an allocator of its own
#else
#define SANITIZED 0
#endif

enum { kThreads = 3, kCalls = SANITIZED ? 3 : 20 };

#if defined(__GLIBC__) && !SANITIZED
static _Thread_local size_t allocations;
void* __libc_malloc(size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void* malloc(size_t bytes) {
  ++allocations;
  return __libc_malloc(bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  ++allocations;
  return __libc_memalign(alignment, bytes);
}
#define COUNTS_ALLOCATIONS
#endif

static const jp_problem kProblem = {
    .struct_size = sizeof(jp_problem),
    .cell = "lstm",
    .layers = 1,
    .batch = 3,
    .steps = 7,
    .inputs = 5,
    .hidden = 130,  // enough for several workers
    .parts = JP_PART_INPUTS | JP_PART_RESIDUALS | JP_PART_D_X | JP_PART_D_WEIGHTS};

static jp_device* device_with(int32_t threads) {
  const jp_device_options options = {.struct_size = sizeof options, .threads = threads};
  jp_device* device = NULL;
  CHECK_OK(jp_device_create(&options, &device));
  return device;
}

static jp_plan* plan_on(const jp_device* device, jp_pass pass) {
  jp_plan* plan = NULL;
  CHECK_OK(jp_plan_create(device, &kProblem, pass, &plan));
  return plan;
}

// What one caller has: plans that it shares, arrays of its own.
typedef struct {
  const jp_plan *forward, *backward;
  arrays of_forward, of_backward;
  jp_status status;
  char text[128];
} caller;

static void* call_often(void* argument) {
  caller* const self = argument;
  const jp_forward_arrays forward = forward_of(&self->of_forward);
  const jp_backward_arrays backward = backward_of(&self->of_backward);
  for (int i = 0; i < kCalls && self->status == JP_OK; ++i) {
    self->status = run_forward(self->forward, &forward);
    if (self->status == JP_OK) self->status = run_backward(self->backward, &backward);
  }
  // An error of this thread is seen by no other.
  jp_plan_create(NULL, NULL, JP_PASS_FORWARD, NULL);
  snprintf(self->text, sizeof self->text, "%s", jp_last_error());
  return NULL;
}

static void copy_operands(arrays* to, const arrays* from) {
  for (size_t i = 0; i < to->count; ++i) {
    if (to->list[i].info.is_result) continue;
    memcpy(to->list[i].data, from->list[i].data, to->list[i].info.bytes);
  }
}

static void check_same(const arrays* got, const arrays* expected) {
  for (size_t i = 0; i < got->count; ++i) {
    const array *const one = &got->list[i], *const other = &expected->list[i];
    CHECK(memcmp(one->data, other->data, one->info.bytes) == 0, "%s", one->info.name);
  }
}

static void check_threads(void) {
  jp_device* const device = device_with(2);
  jp_plan *const forward = plan_on(device, JP_PASS_FORWARD), *const backward =
                                                                 plan_on(device, JP_PASS_BACKWARD);
  caller callers[kThreads + 1];
  pthread_t threads[kThreads];
  for (int i = 0; i <= kThreads; ++i) {
    callers[i] = (caller){forward, backward, arrays_of(forward), arrays_of(backward), JP_OK, ""};
    copy_operands(&callers[i].of_forward, &callers[0].of_forward);
    copy_operands(&callers[i].of_backward, &callers[0].of_backward);
  }
  call_often(&callers[kThreads]);  // alone
  jp_device* none = NULL;
  CHECK(jp_device_create(NULL, NULL) == JP_INVALID_ARGUMENT && none == NULL, "an error of ours");
  for (int i = 0; i < kThreads; ++i) pthread_create(&threads[i], NULL, call_often, &callers[i]);
  for (int i = 0; i < kThreads; ++i) pthread_join(threads[i], NULL);
  CHECK(strcmp(jp_last_error(), "device: expected a pointer; got NULL") == 0, "%s",
        jp_last_error());
  for (int i = 0; i <= kThreads; ++i) {
    CHECK(callers[i].status == JP_OK, "%s", callers[i].text);
    CHECK(strcmp(callers[i].text, "device: expected a pointer; got NULL") == 0, "%s",
          callers[i].text);
    check_same(&callers[i].of_forward, &callers[kThreads].of_forward);
    check_same(&callers[i].of_backward, &callers[kThreads].of_backward);
  }
  for (int i = 0; i <= kThreads; ++i) {
    arrays_free(&callers[i].of_forward);
    arrays_free(&callers[i].of_backward);
  }
  jp_plan_destroy(forward);
  jp_plan_destroy(backward);
  jp_device_destroy(device);
}

#if defined(COUNTS_ALLOCATIONS)
static void check_allocations(void) {
  const size_t before = allocations;
  jp_device* const device = device_with(1);
  jp_plan *const forward = plan_on(device, JP_PASS_FORWARD), *const backward =
                                                                 plan_on(device, JP_PASS_BACKWARD);
  CHECK(allocations > before, "plans take memory, which this test must see");
  arrays of_forward = arrays_of(forward), of_backward = arrays_of(backward);
  const jp_forward_arrays forward_call = forward_of(&of_forward);
  const jp_backward_arrays backward_call = backward_of(&of_backward);
  size_t forward_bytes = 0, backward_bytes = 0;
  CHECK_OK(jp_plan_workspace_bytes(forward, &forward_bytes));
  CHECK_OK(jp_plan_workspace_bytes(backward, &backward_bytes));
  void* const workspace = malloc(forward_bytes > backward_bytes ? forward_bytes : backward_bytes);
  const size_t made = allocations;
  CHECK_OK(jp_forward(forward, &forward_call, workspace, forward_bytes, NULL));
  CHECK_OK(jp_backward(backward, &backward_call, workspace, backward_bytes, NULL));
  CHECK(allocations == made, "%zu allocations", allocations - made);
  free(workspace);
  arrays_free(&of_forward);
  arrays_free(&of_backward);
  jp_plan_destroy(forward);
  jp_plan_destroy(backward);
  jp_device_destroy(device);
}
#endif

int main(void) {
  check_threads();
#if defined(COUNTS_ALLOCATIONS)
  check_allocations();
#endif
  return finish("c_calls");
}
