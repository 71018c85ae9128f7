// SPDX-License-Identifier: Apache-2.0
// The equations of the header once more: plain C in double, one unit at a time.
#ifndef TESTS_C_MODEL_H_
#define TESTS_C_MODEL_H_

#include "jax_persistent.h"

// Arrays of a problem by the header's names and in its shapes; NULL where it has none.
typedef struct {
  double *x, *input_kernel, *bias, *input_gates, *recurrent_kernel, *recurrent_bias;
  const int32_t* lengths;
  const bool* resets;
  double *reset_state[2], *initial_state[2];
} model_inputs;

typedef struct {
  double *outputs, *final_state[2];
} model_results;

int64_t model_gates(const jp_problem* problem);
int64_t model_states(const jp_problem* problem);
int64_t model_directions(const jp_problem* problem);

void model_run(const jp_problem* problem, const model_inputs* in, const model_results* out);

#endif
