// SPDX-License-Identifier: Apache-2.0
// Several threads call with one plan at once; threads of the program's own may help; and with one
// CPU thread a call takes no memory from the heap.
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
    .steps = SANITIZED ? 7 : 90,  // enough for several workers
    .inputs = 5,
    .hidden = 130,
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
  jp_plan *forward, *backward;
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

// Where `stream` is NULL, as it has to be on a CPU, the call is over when it returns: its results
// are there, and nothing reads its operands or uses its workspace any more.
static void check_null_stream(void) {
  jp_device* const device = device_with(3);
  jp_plan* const plan = plan_on(device, JP_PASS_FORWARD);
  arrays expected = arrays_of(plan);
  const jp_forward_arrays first = forward_of(&expected);
  CHECK_OK(run_forward(plan, &first));
  size_t bytes = 0;
  CHECK_OK(jp_plan_workspace_bytes(plan, &bytes));
  for (int i = 0; i < kCalls; ++i) {
    arrays all = arrays_of(plan);
    copy_operands(&all, &expected);
    const jp_forward_arrays call = forward_of(&all);
    void* const workspace = malloc(bytes);
    CHECK(jp_forward(plan, &call, workspace, bytes, &all) == JP_INVALID_ARGUMENT, "a stream");
    CHECK(((unsigned char*)call.outputs)[0] == 0xff, "a refused call has written");
    CHECK_OK(jp_forward(plan, &call, workspace, bytes, NULL));
    memset(workspace, 0x55, bytes);
    free(workspace);
    for (size_t a = 0; a < all.count; ++a) {
      const array *const one = &all.list[a], *const other = &expected.list[a];
      if (!one->info.is_result) memset(one->data, 0x55, one->info.bytes);
      CHECK(!one->info.is_result || memcmp(one->data, other->data, one->info.bytes) == 0, "%s",
            one->info.name);
    }
    arrays_free(&all);
  }
  arrays_free(&expected);
  jp_plan_destroy(plan);
  jp_device_destroy(device);
}

// --- A pool of the program's own

typedef struct {
  void (*run)(void* task);
  void* task;
} job;

enum { kMostJobs = 64, kLent = 2 };

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  job jobs[kMostJobs];
  size_t first, last, ran;  // of all jobs so far: the next to run, behind the newest, done
  bool stops;
} host;

static void enqueue(void* user_data, void (*run)(void* task), void* task) {
  host* const self = user_data;
  pthread_mutex_lock(&self->lock);
  CHECK(self->last - self->first < kMostJobs, "%zu jobs", self->last - self->first);
  self->jobs[self->last++ % kMostJobs] = (job){run, task};
  pthread_cond_signal(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

// A thread of the pool: runs jobs until none are left after `stops`.
static void* work(void* argument) {
  host* const self = argument;
  pthread_mutex_lock(&self->lock);
  while (true) {
    while (self->first == self->last && !self->stops) {
      pthread_cond_wait(&self->changed, &self->lock);
    }
    if (self->first == self->last) break;
    const job next = self->jobs[self->first++ % kMostJobs];
    pthread_mutex_unlock(&self->lock);
    next.run(next.task);
    pthread_mutex_lock(&self->lock);
    ++self->ran;
  }
  pthread_mutex_unlock(&self->lock);
  return NULL;
}

static void run_at_once(void* user_data, void (*run)(void* task), void* task) {
  ++*(size_t*)user_data;
  run(task);
}

static jp_device* device_with_pool(void (*schedule)(void*, void (*)(void*), void*), void* data) {
  const jp_thread_pool pool = {
      .struct_size = sizeof pool, .schedule = schedule, .user_data = data};  // which is copied
  const jp_device_options options = {
      .struct_size = sizeof options, .threads = kLent + 1, .pool = &pool};
  jp_device* device = NULL;
  CHECK_OK(jp_device_create(&options, &device));
  return device;
}

// A caller on a device, with the operands of another one.
static caller caller_on(const jp_device* device, const caller* like) {
  caller made = {.forward = plan_on(device, JP_PASS_FORWARD),
                 .backward = plan_on(device, JP_PASS_BACKWARD)};
  made.of_forward = arrays_of(made.forward);
  made.of_backward = arrays_of(made.backward);
  if (like == NULL) return made;
  copy_operands(&made.of_forward, &like->of_forward);
  copy_operands(&made.of_backward, &like->of_backward);
  return made;
}

static void check_caller(caller* got, const caller* expected) {
  CHECK(got->status == JP_OK, "%s", got->text);
  check_same(&got->of_forward, &expected->of_forward);
  check_same(&got->of_backward, &expected->of_backward);
}

static void free_caller(caller* one) {
  arrays_free(&one->of_forward);
  arrays_free(&one->of_backward);
  jp_plan_destroy(one->forward);
  jp_plan_destroy(one->backward);
}

static void check_lent_threads(void) {
  jp_device* const own = device_with(kLent + 1);
  caller alone = caller_on(own, NULL);
  call_often(&alone);

  // Two threads help two callers.
  host pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  jp_device* const lent = device_with_pool(enqueue, &pool);
  caller callers[2] = {caller_on(lent, &alone), caller_on(lent, &alone)};
  pthread_t workers[kLent], threads[2];
  for (int i = 0; i < kLent; ++i) pthread_create(&workers[i], NULL, work, &pool);
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, call_often, &callers[i]);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  jp_device_destroy(lent);
  for (int i = 0; i < 2; ++i) check_caller(&callers[i], &alone);
  for (int i = 0; i < 2; ++i) free_caller(&callers[i]);
  // Tasks that are still waiting outlive the device, its plans and the calls that they are of.
  pthread_mutex_lock(&pool.lock);
  pool.stops = true;
  pthread_cond_broadcast(&pool.changed);
  pthread_mutex_unlock(&pool.lock);
  for (int i = 0; i < kLent; ++i) pthread_join(workers[i], NULL);
  CHECK(pool.last > 0 && pool.ran == pool.last, "%zu of %zu jobs", pool.ran, pool.last);

  // No thread comes before the call is done, and its jobs find nothing to do.
  host late = {
      .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .stops = true};
  jp_device* const idle = device_with_pool(enqueue, &late);
  caller waits = caller_on(idle, &alone);
  const jp_forward_arrays call = forward_of(&waits.of_forward);
  CHECK_OK(run_forward(waits.forward, &call));
  check_same(&waits.of_forward, &alone.of_forward);
  free_caller(&waits);
  jp_device_destroy(idle);
  work(&late);
  CHECK(late.last > 0 && late.ran == late.last, "%zu of %zu jobs", late.ran, late.last);

  // A pool that runs a job where it is given it.
  size_t ran = 0;
  jp_device* const same = device_with_pool(run_at_once, &ran);
  caller itself = caller_on(same, &alone);
  call_often(&itself);
  check_caller(&itself, &alone);
  CHECK(ran > 0, "no jobs");
  free_caller(&itself);
  jp_device_destroy(same);
  free_caller(&alone);
  jp_device_destroy(own);
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
  check_null_stream();
  check_lent_threads();
#if defined(COUNTS_ALLOCATIONS)
  check_allocations();
#endif
  return finish("c_calls");
}
