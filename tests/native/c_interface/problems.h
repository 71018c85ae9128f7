// SPDX-License-Identifier: Apache-2.0
// What test_values.c runs: each cell with and without each part. All sizes differ.
#ifndef TESTS_C_PROBLEMS_H_
#define TESTS_C_PROBLEMS_H_

#include "jax_persistent.h"

enum { kOfCpu = JP_PART_INPUTS | JP_PART_D_X | JP_PART_D_WEIGHTS };
enum { kOfGpu = JP_PART_INPUT_GATES | JP_PART_D_GATES };

enum {
  kBiases = JP_PART_BIAS | JP_PART_D_BIAS,
  kRecurrentBiases = JP_PART_RECURRENT_BIAS | JP_PART_D_RECURRENT_BIAS,
  kRows = JP_PART_LENGTHS | JP_PART_RESETS,
};

static const jp_problem kCpuProblems[] = {
    {.cell = "lstm",
     .layers = 1,
     .batch = 3,
     .steps = 5,
     .inputs = 4,
     .hidden = 6,
     .parts = kOfCpu | kBiases | JP_PART_RESIDUALS},
    {.cell = "lstm",
     .layers = 2,
     .batch = 3,
     .steps = 5,
     .inputs = 4,
     .hidden = 7,
     .directions = JP_DIRECTION_REVERSE,
     .time_major = 1,
     .parts = kOfCpu | JP_PART_RESIDUALS | JP_PART_LENGTHS},
    {.cell = "lstm",
     .layers = 1,
     .batch = 3,
     .steps = 4,
     .inputs = 5,
     .hidden = 2,
     .dtype = JP_BFLOAT16,
     .parts = kOfCpu | kBiases | JP_PART_RESIDUALS},
    {.cell = "gru",
     .layers = 2,
     .batch = 3,
     .steps = 5,
     .inputs = 4,
     .hidden = 6,
     .directions = JP_DIRECTION_BOTH,
     .parts =
         kOfCpu | kBiases | kRecurrentBiases | JP_PART_RESIDUALS | kRows | JP_PART_RESET_STATE},
    {.cell = "gru",
     .layers = 1,
     .batch = 1,
     .steps = 1,
     .inputs = 3,
     .hidden = 5,
     .directions = JP_DIRECTION_REVERSE,
     .parts = kOfCpu | JP_PART_RESIDUALS},
    {.cell = "elman_tanh",
     .layers = 1,
     .batch = 3,
     .steps = 5,
     .inputs = 6,
     .hidden = 4,
     .directions = JP_DIRECTION_BOTH,
     .time_major = 1,
     .parts = kOfCpu | kBiases | kRows},
    {.cell = "elman_relu",
     .layers = 1,
     .batch = 2,
     .steps = 3,
     .inputs = 4,
     .hidden = 5,
     .directions = JP_DIRECTION_REVERSE,
     .parts = kOfCpu | kBiases},
};

// Time-major, so that a piece of a sequence is a piece of its array. One row has a way of its own
// through a CPU's products, and a piece of one step another one.
static const jp_problem kChunkedProblems[] = {
    {.cell = "lstm",
     .layers = 1,
     .batch = 3,
     .steps = 7,
     .inputs = 5,
     .hidden = 34,
     .time_major = 1,
     .dtype = JP_BFLOAT16,
     .parts = JP_PART_INPUTS | JP_PART_BIAS | JP_PART_CHUNKED | kRows},
    {.cell = "gru",
     .layers = 1,
     .batch = 1,
     .steps = 9,
     .inputs = 4,
     .hidden = 67,
     .time_major = 1,
     .parts = JP_PART_INPUTS | JP_PART_RECURRENT_BIAS | JP_PART_CHUNKED},
};

static const jp_problem kCudaProblems[] = {
    {.cell = "lstm",
     .layers = 1,
     .batch = 3,
     .steps = 4,
     .hidden = 24,
     .directions = JP_DIRECTION_REVERSE,
     .parts = kOfGpu | JP_PART_RESIDUALS | kRows | JP_PART_RESET_STATE},
    {.cell = "gru",
     .layers = 1,
     .batch = 3,
     .steps = 3,
     .hidden = 21,
     .parts = kOfGpu | JP_PART_RESIDUALS | JP_PART_D_RECURRENT_GATES | JP_PART_RECURRENT_BIAS |
              JP_PART_LENGTHS},
};

#endif
