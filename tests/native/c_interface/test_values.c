// SPDX-License-Identifier: Apache-2.0
// Forward against the equations in double, backward against their finite differences, for each cell
// with and without each part. test_c_values cpu|cuda: the latter on the software GPU in libcuda's
// place, whose memory is the program's.
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "check.h"
#include "model.h"
#include "problems.h"

// Rows of 3 units end early, not at all and at once; resets are at steps 1 and 3 of some.
static void fill_rows(arrays* all, const jp_problem* p) {
  array *const lengths = find(all, "lengths"), *const resets = find(all, "resets");
  for (size_t i = 0; lengths && i < length_of(lengths); ++i) {
    ((int32_t*)lengths->data)[i] = i % 3 == 1 ? 0 : (int32_t)(i % 3 == 0 ? p->steps : p->steps - 2);
  }
  for (size_t i = 0; resets && i < length_of(resets); ++i) ((bool*)resets->data)[i] = i % 4 == 1;
}

static void use(arrays* all, const char* name, int state, double** to) {
  char numbered[32];
  snprintf(numbered, sizeof numbered, state < 0 ? "%s" : "%s[%d]", name, state);
  *to = doubles(find(all, numbered));
}

static model_inputs inputs_of(arrays* all) {
  model_inputs in = {0};
  use(all, "x", -1, &in.x);
  use(all, "input_kernel", -1, &in.input_kernel);
  use(all, "bias", -1, &in.bias);
  use(all, "input_gates", -1, &in.input_gates);
  use(all, "recurrent_kernel", -1, &in.recurrent_kernel);
  use(all, "recurrent_bias", -1, &in.recurrent_bias);
  for (int s = 0; s < 2; ++s) {
    use(all, "initial_state", s, &in.initial_state[s]);
    use(all, "reset_state", s, &in.reset_state[s]);
  }
  const array *const lengths = find(all, "lengths"), *const resets = find(all, "resets");
  if (lengths) in.lengths = lengths->data;
  if (resets) in.resets = resets->data;
  return in;
}

static void free_inputs(model_inputs* in) {
  double* const owned[] = {in->x,
                           in->input_kernel,
                           in->bias,
                           in->input_gates,
                           in->recurrent_kernel,
                           in->recurrent_bias,
                           in->initial_state[0],
                           in->initial_state[1],
                           in->reset_state[0],
                           in->reset_state[1]};
  for (size_t i = 0; i < sizeof owned / sizeof *owned; ++i) free(owned[i]);
}

static void check_close(const jp_problem* p, const array* got, const double* expected) {
  double largest = 1e-3;
  for (size_t i = 0; i < length_of(got); ++i) largest = fmax(largest, fabs(expected[i]));
  const double limit = (p->dtype == JP_FLOAT32 ? 2e-5 : 1.0 / 32) * largest;
  for (size_t i = 0; i < length_of(got); ++i) {
    CHECK(fabs(get(got, i) - expected[i]) <= limit, "%s %s %zu: got %g, expected %g", p->cell,
          got->info.name, i, get(got, i), expected[i]);
  }
}

// The results of the equations, and a loss: their products with d_outputs and d_final_state.
typedef struct {
  const jp_problem* problem;
  model_inputs* in;
  model_results out;
  double *d_outputs, *d_final_state[2];
  size_t outputs, states;
} graph;

static double loss(const graph* g) {
  model_run(g->problem, g->in, &g->out);
  double sum = 0;
  for (size_t i = 0; i < g->outputs; ++i) sum += g->out.outputs[i] * g->d_outputs[i];
  for (int s = 0; s < model_states(g->problem); ++s) {
    for (size_t i = 0; i < g->states; ++i) sum += g->out.final_state[s][i] * g->d_final_state[s][i];
  }
  return sum;
}

// The loss's derivative with respect to one value.
static double slope(const graph* g, double* value) {
  const double before = *value, by = 1e-5;
  *value = before + by;
  const double above = loss(g);
  *value = before - by;
  const double below = loss(g);
  *value = before;
  return (above - below) / (2 * by);
}

static void check_gradient(const graph* g, const array* got, double* values) {
  if (got == NULL) return;
  double* const expected = malloc(length_of(got) * sizeof *expected);
  for (size_t i = 0; i < length_of(got); ++i) expected[i] = slope(g, &values[i]);
  check_close(g->problem, got, expected);
  free(expected);
}

// The recurrent bias's gradient is the sum of the recurrent gates' over rows and steps.
static void check_recurrent_gates(const graph* g, arrays* backward) {
  const array* const gates = find(backward, "d_recurrent_gates");
  if (gates == NULL || g->in->recurrent_bias == NULL) return;
  const size_t columns = (size_t)(model_gates(g->problem) * g->problem->hidden);
  CHECK(g->problem->layers * model_directions(g->problem) == 1, "sums over all rows");
  for (size_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (size_t i = c; i < length_of(gates); i += columns) sum += get(gates, i);
    const double expected = slope(g, &g->in->recurrent_bias[c]);
    CHECK(fabs(sum - expected) < 1e-4, "%zu: got %g, expected %g", c, sum, expected);
  }
}

static void check_backward(const jp_device* device, graph* g, arrays* forward) {
  const jp_problem* const p = g->problem;
  jp_plan* plan = NULL;
  CHECK_OK(jp_plan_create(device, p, JP_PASS_BACKWARD, &plan));
  if (plan == NULL) return;
  arrays backward = arrays_of(plan);
  for (size_t i = 0; i < backward.count; ++i) {
    array* const one = &backward.list[i];
    const array* const same = one->info.is_result ? NULL : find(forward, one->info.name);
    if (same) memcpy(one->data, same->data, one->info.bytes);
  }
  const jp_backward_arrays call = backward_of(&backward);
  CHECK_OK(run_backward(plan, &call));

  g->outputs = length_of(find(forward, "outputs"));
  g->states = length_of(find(forward, "final_state[0]"));
  use(&backward, "d_outputs", -1, &g->d_outputs);
  for (int s = 0; s < 2; ++s) use(&backward, "d_final_state", s, &g->d_final_state[s]);
  check_gradient(g, find(&backward, "d_x"), g->in->x);
  check_gradient(g, find(&backward, "d_input_kernel"), g->in->input_kernel);
  check_gradient(g, find(&backward, "d_bias"), g->in->bias);
  check_gradient(g, find(&backward, "d_recurrent_kernel"), g->in->recurrent_kernel);
  check_gradient(g, find(&backward, "d_recurrent_bias"), g->in->recurrent_bias);
  check_gradient(g, find(&backward, "d_input_gates"), g->in->input_gates);
  check_gradient(g, find(&backward, "d_initial_state[0]"), g->in->initial_state[0]);
  check_gradient(g, find(&backward, "d_initial_state[1]"), g->in->initial_state[1]);
  check_gradient(g, find(&backward, "d_reset_state[0]"), g->in->reset_state[0]);
  check_gradient(g, find(&backward, "d_reset_state[1]"), g->in->reset_state[1]);
  check_recurrent_gates(g, &backward);
  free(g->d_outputs);
  for (int s = 0; s < 2; ++s) free(g->d_final_state[s]);
  arrays_free(&backward);
  jp_plan_destroy(plan);
}

// The same kernels packed give the same bits.
static void check_packed(const jp_device* device, jp_problem p, arrays* plain) {
  p.packed = 1;
  jp_plan* plan = NULL;
  CHECK_OK(jp_plan_create(device, &p, JP_PASS_FORWARD, &plan));
  if (plan == NULL) return;
  arrays packed = arrays_of(plan);
  for (size_t i = 0; i < packed.count; ++i) {
    array* const one = &packed.list[i];
    const array* const same = find(plain, one->info.name);
    const bool is_kernel = strstr(one->info.name, "kernel") != NULL;
    if (is_kernel) {
      const jp_kernel which = *one->info.name == 'i' ? JP_INPUT_KERNEL : JP_RECURRENT_KERNEL;
      CHECK_OK(jp_pack(plan, which, same->data, same->info.bytes, one->data, one->info.bytes));
    } else if (!one->info.is_result) {
      memcpy(one->data, same->data, one->info.bytes);
    }
  }
  const jp_forward_arrays call = forward_of(&packed);
  CHECK_OK(run_forward(plan, &call));
  for (size_t i = 0; i < packed.count; ++i) {
    const array *const one = &packed.list[i], *const same = find(plain, one->info.name);
    if (!one->info.is_result) continue;
    CHECK(memcmp(one->data, same->data, one->info.bytes) == 0, "%s", one->info.name);
  }
  arrays_free(&packed);
  jp_plan_destroy(plan);
}

// Sets the arrays of `steps` steps of a time-major problem to those of all, from a step on, and its
// initial states to what another piece has ended with.
static void take_piece(arrays* piece, arrays* all, const jp_problem* p, int64_t from, int64_t steps,
                       arrays* before) {
  for (size_t i = 0; i < piece->count; ++i) {
    array* const one = &piece->list[i];
    if (one->info.is_result) continue;
    const array* const whole = find(all, one->info.name);
    const size_t step = whole->info.bytes / (size_t)p->steps;
    const bool sequence = one->info.bytes == step * (size_t)steps;
    memcpy(one->data, (char*)whole->data + (sequence ? step * (size_t)from : 0), one->info.bytes);
  }
  array* const lengths = find(piece, "lengths");
  for (size_t i = 0; lengths && i < length_of(lengths); ++i) {
    int32_t* const left = &((int32_t*)lengths->data)[i];
    *left -= (int32_t)from;
    *left = *left < 0 ? 0 : *left > steps ? (int32_t)steps : *left;
  }
  for (int s = 0; before && s < model_states(p); ++s) {
    char name[32];
    snprintf(name, sizeof name, "initial_state[%d]", s);
    array* const start = find(piece, name);
    snprintf(name, sizeof name, "final_state[%d]", s);
    memcpy(start->data, find(before, name)->data, start->info.bytes);
  }
}

// A problem's plan, and all arrays of its forward pass, which has run; null if it has none.
static jp_plan* run_whole(const jp_device* device, jp_problem* p, arrays* all) {
  p->struct_size = sizeof *p;
  jp_plan* plan = NULL;
  CHECK_OK(jp_plan_create(device, p, JP_PASS_FORWARD, &plan));
  if (plan == NULL) return NULL;
  *all = arrays_of(plan);
  fill_rows(all, p);
  const jp_forward_arrays call = forward_of(all);
  CHECK_OK(run_forward(plan, &call));
  return plan;
}

// Pieces of a sequence give the bits of the whole, wherever it is cut.
static void check_chunked(const jp_device* device, jp_problem p) {
  arrays all;
  jp_plan* const plan = run_whole(device, &p, &all);
  if (plan == NULL) return;
  CHECK(find(&all, "final_state[0]")->info.dtype == JP_FLOAT32, "the states are float32");

  const int64_t cuts[] = {0, 1, 2, 4, p.steps};
  arrays pieces[4];
  jp_plan* plans[4] = {NULL};  // which have the arrays' names
  for (int i = 0; i < 4; ++i) {
    jp_problem of_piece = p;
    of_piece.steps = cuts[i + 1] - cuts[i];
    CHECK_OK(jp_plan_create(device, &of_piece, JP_PASS_FORWARD, &plans[i]));
    pieces[i] = arrays_of(plans[i]);
    take_piece(&pieces[i], &all, &p, cuts[i], of_piece.steps, i ? &pieces[i - 1] : NULL);
    const jp_forward_arrays of_call = forward_of(&pieces[i]);
    CHECK_OK(run_forward(plans[i], &of_call));
    const array *const got = find(&pieces[i], "outputs"), *const whole = find(&all, "outputs");
    const size_t step = whole->info.bytes / (size_t)p.steps;
    CHECK(memcmp(got->data, (char*)whole->data + step * (size_t)cuts[i], got->info.bytes) == 0,
          "%s: the outputs of piece %d", p.cell, i);
  }
  for (int s = 0; s < model_states(&p); ++s) {
    char name[32];
    snprintf(name, sizeof name, "final_state[%d]", s);
    const array *const got = find(&pieces[3], name), *const whole = find(&all, name);
    CHECK(memcmp(got->data, whole->data, got->info.bytes) == 0, "%s: %s", p.cell, name);
  }
  for (int i = 0; i < 4; ++i) {
    arrays_free(&pieces[i]);
    jp_plan_destroy(plans[i]);
  }
  arrays_free(&all);
  jp_plan_destroy(plan);
}

static void check(const jp_device* device, jp_problem p) {
  arrays all;
  jp_plan* const plan = run_whole(device, &p, &all);
  if (plan == NULL) return;

  model_inputs in = inputs_of(&all);
  graph g = {.problem = &p, .in = &in};
  const array *const outputs = find(&all, "outputs"), *const h = find(&all, "final_state[0]");
  const array* const c = find(&all, "final_state[1]");
  g.out = (model_results){doubles(outputs), {doubles(h), doubles(c)}};
  model_run(&p, &in, &g.out);
  check_close(&p, outputs, g.out.outputs);
  check_close(&p, h, g.out.final_state[0]);
  if (c != NULL) check_close(&p, c, g.out.final_state[1]);
  check_backward(device, &g, &all);
  if (p.parts & JP_PART_INPUTS) check_packed(device, p, &all);

  free(g.out.outputs);
  for (int s = 0; s < 2; ++s) free(g.out.final_state[s]);
  free_inputs(&in);
  arrays_free(&all);
  jp_plan_destroy(plan);
}

// A stream of the software GPU, which takes no default one.
static void* stream_of_gpu(void) {
  void* const library = dlopen(getenv("JAX_PERSISTENT_LIBCUDA"), RTLD_NOW);
  void* (*stream_of)(int) = NULL;
  void* const symbol = library ? dlsym(library, "SoftwareGpuStream") : NULL;
  CHECK(symbol != NULL, "no software GPU");
  memcpy(&stream_of, &symbol, sizeof stream_of);
  return symbol ? stream_of(0) : NULL;
}

int main(int count, char** arguments) {
  const char* const platform = count > 1 ? arguments[1] : "cpu";
  const bool cuda = strcmp(platform, "cuda") == 0;
  if (cuda) stream = stream_of_gpu();
  for (int threads = 1; threads <= (cuda ? 1 : 3); threads += 2) {
    const jp_device_options options = {
        .struct_size = sizeof options, .platform = platform, .threads = threads};
    jp_device* device = NULL;
    CHECK_OK(jp_device_create(&options, &device));
    const jp_problem* const problems = cuda ? kCudaProblems : kCpuProblems;
    const size_t all = cuda ? sizeof kCudaProblems : sizeof kCpuProblems;
    for (size_t i = 0; device && i < all / sizeof *problems; ++i) check(device, problems[i]);
    const size_t chunked = cuda ? 0 : sizeof kChunkedProblems / sizeof *kChunkedProblems;
    for (size_t i = 0; device && i < chunked; ++i) check_chunked(device, kChunkedProblems[i]);
    jp_device_destroy(device);
  }
  return finish("c_values");
}
