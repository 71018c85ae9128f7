// SPDX-License-Identifier: Apache-2.0
// An LSTM in C that learns to remember: its first unit is to end with the number that the first
// step's input was, whatever came after it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jax_persistent.h"

enum { B = 32, T = 12, I = 1, H = 16, G = 4 };
enum { kUpdates = 500 };

static float x[B * T * I], h0[B * H], c0[B * H];  // the initial state is zero
static float outputs[B * T * H], h[B * H], c[B * H], residuals[B * T * 5 * H];
static float d_outputs[B * T * H], d_h[B * H], d_c[B * H];  // of these only d_h is not zero
static float d_h0[B * H], d_c0[B * H];

// What is learned: the kernels and the bias, their gradients, and what momentum keeps of those.
typedef struct {
  float input_kernel[I * G * H], recurrent_kernel[H * G * H], bias[G * H];
} weights;
static weights w, d_w, momentum;

static void check(jp_status status) {
  if (status == JP_OK) return;
  fprintf(stderr, "%s: %s\n", jp_status_name(status), jp_last_error());
  exit(1);
}

static float uniform(void) { return 2 * (float)rand() / (float)RAND_MAX - 1; }

// The mean of the squared errors; d_h becomes its gradient.
static float loss(void) {
  float sum = 0;
  for (int b = 0; b < B; ++b) {
    const float error = h[b * H] - x[b * T];
    d_h[b * H] = 2 * error / B;
    sum += error * error / B;
  }
  return sum;
}

static void update(void) {
  float *const to = (float*)&w, *const kept = (float*)&momentum, *const gradient = (float*)&d_w;
  for (size_t i = 0; i < sizeof w / sizeof(float); ++i) {
    kept[i] = 0.9f * kept[i] + gradient[i];
    to[i] -= 0.1f * kept[i];
  }
}

int main(void) {
  jp_device* device;
  check(jp_device_create(NULL, &device));  // the CPU, all its cores
  const jp_problem problem = {.struct_size = sizeof problem,
                              .cell = "lstm",
                              .dtype = JP_FLOAT32,
                              .layers = 1,
                              .batch = B,
                              .steps = T,
                              .inputs = I,
                              .hidden = H,
                              .parts = JP_PART_INPUTS | JP_PART_BIAS | JP_PART_RESIDUALS |
                                       JP_PART_D_WEIGHTS | JP_PART_D_BIAS};
  jp_plan *forward, *backward;
  check(jp_plan_create(device, &problem, JP_PASS_FORWARD, &forward));
  check(jp_plan_create(device, &problem, JP_PASS_BACKWARD, &backward));
  const char* text;
  check(jp_plan_text(forward, &text));
  printf("%s\n", text);

  size_t bytes, more_bytes;
  check(jp_plan_workspace_bytes(forward, &bytes));
  check(jp_plan_workspace_bytes(backward, &more_bytes));
  if (more_bytes > bytes) bytes = more_bytes;
  void* const workspace = malloc(bytes);

  const jp_forward_arrays run = {.struct_size = sizeof run,
                                 .x = x,
                                 .input_kernel = w.input_kernel,
                                 .bias = w.bias,
                                 .recurrent_kernel = w.recurrent_kernel,
                                 .initial_state = {h0, c0},
                                 .outputs = outputs,
                                 .final_state = {h, c},
                                 .residuals = residuals};
  const jp_backward_arrays differentiate = {.struct_size = sizeof differentiate,
                                            .x = x,
                                            .recurrent_kernel = w.recurrent_kernel,
                                            .initial_state = {h0, c0},
                                            .outputs = outputs,
                                            .residuals = residuals,
                                            .d_outputs = d_outputs,
                                            .d_final_state = {d_h, d_c},
                                            .d_input_kernel = d_w.input_kernel,
                                            .d_bias = d_w.bias,
                                            .d_recurrent_kernel = d_w.recurrent_kernel,
                                            .d_initial_state = {d_h0, d_c0}};

  for (int i = 0; i < I * G * H; ++i) w.input_kernel[i] = 0.5f * uniform();
  for (int i = 0; i < H * G * H; ++i) w.recurrent_kernel[i] = 0.3f * uniform();
  for (int i = 0; i < H; ++i) w.bias[1 * H + i] = 1;  // the gates are i, f, g, o: remember at first
  for (int i = 0; i <= kUpdates; ++i) {
    for (int b = 0; b < B * T * I; ++b) x[b] = 0.5f * uniform();
    check(jp_forward(forward, &run, workspace, bytes, NULL));
    const float error = loss();
    if (i % (kUpdates / 5) == 0) printf("update %4d: loss %.5f\n", i, error);
    check(jp_backward(backward, &differentiate, workspace, bytes, NULL));
    update();
  }

  free(workspace);
  jp_plan_destroy(forward);
  jp_plan_destroy(backward);
  jp_device_destroy(device);
  return 0;
}
