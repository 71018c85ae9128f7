// SPDX-License-Identifier: Apache-2.0
// Whatever a caller does wrong, it gets a status and a text that says what was expected. The GPU of
// this test's environment has no driver.
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "check.h"

#define CHECK_ERROR(call, expected_status, text)                                           \
  do {                                                                                     \
    const jp_status status_ = (call);                                                      \
    CHECK(status_ == (expected_status) && strstr(jp_last_error(), text) != NULL, "%s: %s", \
          jp_status_name(status_), jp_last_error());                                       \
  } while (0)

#define CHECK_INVALID(call, text) CHECK_ERROR(call, JP_INVALID_ARGUMENT, text)

static const jp_problem kGood = {.struct_size = sizeof(jp_problem),
                                 .cell = "lstm",
                                 .layers = 1,
                                 .batch = 3,
                                 .steps = 5,
                                 .inputs = 4,
                                 .hidden = 6,
                                 .parts = JP_PART_INPUTS | JP_PART_BIAS | JP_PART_RESIDUALS |
                                          JP_PART_LENGTHS | JP_PART_D_X | JP_PART_D_WEIGHTS};

static void check_devices(void) {
  jp_device* device = NULL;
  jp_device_options options = {.struct_size = sizeof options, .platform = "tpu"};
  CHECK_INVALID(jp_device_create(&options, NULL), "device: expected a pointer; got NULL");
  CHECK_INVALID(jp_device_create(&options, &device),
                "platform: expected 'cpu' or 'CUDA'; got 'tpu'");
  options.platform = "cpu";
  options.threads = -1;
  CHECK_INVALID(jp_device_create(&options, &device), "threads: expected 0 to 1024; got -1");
  options.threads = 0;
  options.ordinal = -2;
  CHECK_INVALID(jp_device_create(&options, &device), "ordinal: expected at least 0; got -2");
  options.ordinal = 0;
  jp_thread_pool pool = {.struct_size = sizeof pool};
  options.pool = &pool;
  CHECK_INVALID(jp_device_create(&options, &device),
                "schedule: expected a function of the jp_thread_pool; got NULL");
  pool.struct_size = 8;
  CHECK_INVALID(jp_device_create(&options, &device),
                "jp_thread_pool: expected struct_size to be sizeof(jp_thread_pool), which is 24");
  options.struct_size = 0;
  CHECK_INVALID(jp_device_create(&options, &device),
                "jp_device_options: expected struct_size to be sizeof(jp_device_options), which");
  options.struct_size = offsetof(jp_device_options, pool);  // version 1.0, which has no pool
  CHECK_OK(jp_device_create(&options, &device));
  jp_device_destroy(device);
  device = NULL;
  options.pool = NULL;
  options.struct_size = sizeof options;
  options.platform = "cuda";
  CHECK_ERROR(jp_device_create(&options, &device), JP_UNAVAILABLE, "CUDA: ");
  CHECK_ERROR(jp_device_create(&options, &device), JP_UNAVAILABLE, "no-driver");
  CHECK(device == NULL, "a device was made");
}

// A program of a later version, whose struct has a field more.
static void check_versions(const jp_device* device) {
  struct {
    jp_problem known;
    int64_t later;
  } problem = {kGood, 0};
  jp_plan* plan = NULL;
  problem.known.struct_size = sizeof problem;
  CHECK_OK(jp_plan_create(device, &problem.known, JP_PASS_FORWARD, &plan));
  jp_plan_destroy(plan);
  plan = NULL;
  problem.later = 1;
  CHECK_INVALID(jp_plan_create(device, &problem.known, JP_PASS_FORWARD, &plan),
                "jp_problem: a field is set that this library, of version 1001, does not know");
  const size_t wrong[] = {0, 8, sizeof(jp_problem) - 4, (size_t)1 << 40, (size_t)-1};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
    problem.known.struct_size = wrong[i];
    CHECK_INVALID(jp_plan_create(device, &problem.known, JP_PASS_FORWARD, &plan),
                  "jp_problem: expected struct_size to be sizeof(jp_problem), which is 80");
  }
  CHECK(plan == NULL, "a plan was made");
  CHECK(jp_version() == JP_VERSION, "%d", (int)jp_version());
  CHECK(strcmp(jp_status_name(JP_UNAVAILABLE), "JP_UNAVAILABLE") == 0, "the name of a status");
  CHECK(jp_status_name(77) != NULL, "the name of no status");
}

static void check_problem(const jp_device* device, jp_problem problem, const char* text) {
  jp_plan* plan = NULL;
  CHECK_INVALID(jp_plan_create(device, &problem, JP_PASS_FORWARD, &plan), text);
  CHECK(plan == NULL, "a plan was made");
}

static void check_problems(const jp_device* device) {
  jp_plan* plan = NULL;
  CHECK_INVALID(jp_plan_create(NULL, &kGood, JP_PASS_FORWARD, &plan), "device: expected a pointer");
  CHECK_INVALID(jp_plan_create(device, NULL, JP_PASS_FORWARD, &plan), "jp_problem: expected a");
  CHECK_INVALID(jp_plan_create(device, &kGood, JP_PASS_FORWARD, NULL), "plan: expected a pointer");
  CHECK_INVALID(jp_plan_create(device, &kGood, 2, &plan), "pass: expected a JP_PASS_*; got 2");
#define CHECK_FIELD(field, value, text)    \
  do {                                     \
    jp_problem problem_ = kGood;           \
    problem_.field = value;                \
    check_problem(device, problem_, text); \
  } while (0)
  CHECK_FIELD(cell, "lstn", "cell: expected one of 'lstm', 'gru', 'elman_tanh', 'elman_relu'; got");
  CHECK_FIELD(cell, NULL, "cell: expected a pointer; got NULL");
  CHECK_FIELD(dtype, JP_INT32, "dtype: expected one of floating-point numbers; got 4");
  CHECK_FIELD(dtype, -1, "dtype: expected");
  CHECK_FIELD(directions, 3, "directions: expected a JP_DIRECTION_*; got 3");
  CHECK_FIELD(layers, 0, "layers: expected at least 1; got 0");
  CHECK_FIELD(layers, INT64_MAX, "groups: expected at most 2^45; got 9223372036854775807");
  CHECK_FIELD(batch, -1, "batch: expected at least 1; got -1");
  CHECK_FIELD(steps, 0, "steps: expected at least 1; got 0");
  CHECK_FIELD(steps, (int64_t)1 << 31, "steps: expected at most 2^31 - 1");
  CHECK_FIELD(inputs, -7, "inputs: expected at least 0; got -7");
  CHECK_FIELD(inputs, 0, "x: expected every size to be at least 1; got 0");
  CHECK_FIELD(hidden, 0, "hidden: expected at least 1; got 0");
  CHECK_FIELD(hidden, INT64_MAX, "hidden: expected at most 2^45; got 9223372036854775807");
  CHECK_FIELD(hidden, (int64_t)1 << 40, "expected at most 2^45 values");
  CHECK_FIELD(parts, JP_PART_RESIDUALS, "parts: expected either inputs or input_gates");
  CHECK_FIELD(parts, JP_PART_INPUTS | (1u << 30),
              "parts: expected JP_PART_* flags; got 1073741824");
  CHECK_FIELD(parts, JP_PART_INPUTS | JP_PART_RECURRENT_BIAS, "parts: recurrent_bias needs a cell");
  CHECK_FIELD(parts, JP_PART_INPUTS | JP_PART_RESET_STATE, "parts: reset_state needs resets");
}

// Possible, and with no kernel on a CPU.
static void check_refusals(const jp_device* device) {
  jp_plan* plan = NULL;
  jp_problem problem = kGood;
  problem.dtype = JP_FLOAT16;
  CHECK_ERROR(jp_plan_create(device, &problem, JP_PASS_FORWARD, &plan), JP_UNSUPPORTED,
              "no cpu kernel for float16; there is one for float32 and bfloat16");
  problem = kGood;
  problem.parts = JP_PART_INPUT_GATES;
  CHECK_ERROR(jp_plan_create(device, &problem, JP_PASS_FORWARD, &plan), JP_UNSUPPORTED,
              "no cpu kernel that is given the input gates");
  CHECK(plan == NULL, "a plan was made");
}

static void check_questions(const jp_plan* plan) {
  size_t size = 0;
  const char* text = NULL;
  jp_array_info info = {.struct_size = sizeof info};
  CHECK_INVALID(jp_plan_workspace_bytes(NULL, &size), "plan: expected a pointer");
  CHECK_INVALID(jp_plan_workspace_bytes(plan, NULL), "bytes: expected a pointer");
  CHECK_INVALID(jp_plan_text(NULL, &text), "plan: expected a pointer");
  CHECK_INVALID(jp_plan_text(plan, NULL), "text: expected a pointer");
  CHECK_INVALID(jp_plan_array_count(plan, NULL), "count: expected a pointer");
  CHECK_INVALID(jp_plan_array(plan, 0, NULL), "jp_array_info: expected a pointer");
  CHECK_INVALID(jp_plan_array(plan, 999, &info), "index: expected less than ");
  info.struct_size = 4;
  CHECK_INVALID(jp_plan_array(plan, 0, &info), "jp_array_info: expected struct_size");
  CHECK_OK(jp_plan_text(plan, &text));
  CHECK(strstr(text, "weights") != NULL, "%s", text);
}

static void check_arrays(const jp_plan* plan) {
  arrays all = arrays_of(plan);
  const jp_forward_arrays good = forward_of(&all);
  CHECK_OK(run_forward(plan, &good));
  CHECK_INVALID(run_forward(plan, NULL), "jp_forward_arrays: expected a pointer");
#define CHECK_ARRAY(field, value, text)              \
  do {                                               \
    jp_forward_arrays wrong_ = good;                 \
    wrong_.field = value;                            \
    CHECK_INVALID(run_forward(plan, &wrong_), text); \
  } while (0)
  float other[8] = {0};
  CHECK_ARRAY(struct_size, 3, "jp_forward_arrays: expected struct_size");
  CHECK_ARRAY(x, NULL, "x: expected an array, as the problem has inputs; got NULL");
  CHECK_ARRAY(outputs, NULL, "outputs: expected an array; got NULL");
  CHECK_ARRAY(lengths, NULL, "lengths: expected an array, as the problem has lengths; got NULL");
  CHECK_ARRAY(initial_state[1], NULL, "initial_state[1]: expected an array; got NULL");
  CHECK_ARRAY(initial_state[2], other,
              "initial_state[2]: expected NULL, as the cell has 2 states; got an address");
  CHECK_ARRAY(recurrent_bias, other,
              "recurrent_bias: expected NULL, as the problem has no recurrent_bias; got an");
  CHECK_ARRAY(bias, (const char*)good.bias + 4,
              "bias: expected an address that is a multiple of 16; got one that is 4 more");
  arrays_free(&all);
}

static void check_calls(const jp_plan* forward, const jp_plan* backward) {
  arrays all = arrays_of(forward);
  const jp_forward_arrays call = forward_of(&all);
  const jp_backward_arrays none = {.struct_size = sizeof none};
  size_t bytes = 0;
  CHECK_OK(jp_plan_workspace_bytes(forward, &bytes));
  char* const workspace = malloc(bytes + JP_ALIGNMENT);
  CHECK_INVALID(jp_forward(NULL, &call, workspace, bytes, NULL), "plan: expected a pointer");
  CHECK_INVALID(jp_forward(backward, &call, workspace, bytes, NULL),
                "plan: expected one of the forward pass; got one of the backward pass");
  CHECK_INVALID(jp_backward(forward, &none, workspace, bytes, NULL),
                "plan: expected one of the backward pass; got one of the forward pass");
  CHECK_INVALID(jp_backward(backward, &none, workspace, bytes, NULL),
                "x: expected an array, as the problem has d_weights; got NULL");
  CHECK_INVALID(jp_forward(forward, &call, workspace, bytes - 1, NULL), "workspace: expected at");
  CHECK_INVALID(jp_forward(forward, &call, NULL, bytes, NULL), "workspace: expected a pointer");
  CHECK_INVALID(jp_forward(forward, &call, workspace + 1, bytes, NULL),
                "workspace: expected an address that is a multiple of 16; got one that is 1 more");
  CHECK_INVALID(jp_forward(forward, &call, workspace, bytes, workspace),
                "stream: expected NULL, as a CPU has none");
  free(workspace);
  arrays_free(&all);
}

static void check_packing(const jp_device* device, const jp_plan* plain) {
  jp_problem problem = kGood;
  problem.packed = 1;
  jp_plan* plan = NULL;
  CHECK_OK(jp_plan_create(device, &problem, JP_PASS_FORWARD, &plan));
  arrays all = arrays_of(plan), of_plain = arrays_of(plain);
  const array *const to = find(&all, "input_kernel"), *const from = find(&of_plain, "input_kernel");
  const size_t is = from->info.bytes, becomes = to->info.bytes;
  CHECK_OK(jp_pack(plan, JP_INPUT_KERNEL, from->data, is, to->data, becomes));
  CHECK_INVALID(jp_pack(NULL, 0, from->data, is, to->data, becomes), "plan: expected a pointer");
  CHECK_INVALID(jp_pack(plain, 0, from->data, is, to->data, becomes), "of a packed problem");
  CHECK_INVALID(jp_pack(plan, 2, from->data, is, to->data, becomes), "JP_RECURRENT_KERNEL; got 2");
  CHECK_INVALID(jp_pack(plan, 0, NULL, is, to->data, becomes), "kernel: expected a pointer");
  CHECK_INVALID(jp_pack(plan, 0, from->data, is, NULL, becomes), "packed: expected a pointer");
  CHECK_INVALID(jp_pack(plan, 0, from->data, is - 4, to->data, becomes),
                "kernel: expected 384 bytes of input_kernel; got 380");
  CHECK_INVALID(jp_pack(plan, 0, from->data, is, to->data, becomes + 4), "packed: expected ");
  arrays_free(&all);
  arrays_free(&of_plain);
  jp_plan_destroy(plan);
}

int main(void) {
  CHECK(strcmp(jp_last_error(), "") == 0, "%s", jp_last_error());
  check_devices();
  jp_device* device = NULL;
  CHECK_OK(jp_device_create(NULL, &device));
  check_versions(device);
  check_problems(device);
  check_refusals(device);
  jp_plan *forward = NULL, *backward = NULL;
  CHECK_OK(jp_plan_create(device, &kGood, JP_PASS_FORWARD, &forward));
  CHECK_OK(jp_plan_create(device, &kGood, JP_PASS_BACKWARD, &backward));
  check_packing(device, forward);
  jp_device_destroy(device);  // plans outlive it
  check_questions(forward);
  check_arrays(forward);
  check_calls(forward, backward);
  jp_plan_destroy(forward);
  jp_plan_destroy(backward);
  jp_plan_destroy(NULL);
  jp_device_destroy(NULL);
  return finish("c_errors");
}
