// SPDX-License-Identifier: Apache-2.0
// One row of one direction of one layer after the other.
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t model_gates(const jp_problem* problem) {
  return strcmp(problem->cell, "lstm") == 0 ? 4 : strcmp(problem->cell, "gru") == 0 ? 3 : 1;
}

int64_t model_states(const jp_problem* problem) {
  return strcmp(problem->cell, "lstm") == 0 ? 2 : 1;
}

int64_t model_directions(const jp_problem* problem) {
  return problem->directions == JP_DIRECTION_BOTH ? 2 : 1;
}

static double logistic(double x) { return 1 / (1 + exp(-x)); }

// A unit's states after a step, from its gates of the inputs, a, and of h, r.
static void unit(const char* cell, const double* a, const double* r, double* h, double* c) {
  if (strcmp(cell, "lstm") == 0) {
    *c = logistic(a[1] + r[1]) * *c + logistic(a[0] + r[0]) * tanh(a[2] + r[2]);
    *h = logistic(a[3] + r[3]) * tanh(*c);
  } else if (strcmp(cell, "gru") == 0) {
    const double n = tanh(a[2] + logistic(a[0] + r[0]) * r[2]), z = logistic(a[1] + r[1]);
    *h = (1 - z) * n + z * *h;
  } else {
    *h = strcmp(cell, "elman_tanh") == 0 ? tanh(a[0] + r[0]) : fmax(a[0] + r[0], 0);
  }
}

// Where one row is. `way` counts layers and their directions, [N,D].
typedef struct {
  int64_t layer, way, b;
} place;

static int64_t sequence_row(const jp_problem* p, int64_t outer, int64_t b, int64_t t) {
  const int64_t row = p->time_major ? t * p->batch + b : b * p->steps + t;
  return outer * p->batch * p->steps + row;
}

static void step(const jp_problem* p, const model_inputs* in, place at, int64_t t, double* h,
                 double* c) {
  const int64_t D = model_directions(p), G = model_gates(p), H = p->hidden;
  const int64_t row = sequence_row(p, at.layer, at.b, t);
  double* const next = malloc((size_t)H * sizeof *next);
  for (int64_t u = 0; u < H; ++u) {
    double a[4] = {0}, r[4] = {0};
    for (int64_t g = 0; g < G; ++g) {
      const int64_t column = g * H + u;
      if (in->input_gates) a[g] = in->input_gates[(row * D + at.way % D) * G * H + column];
      if (in->bias) a[g] += in->bias[at.way * G * H + column];
      for (int64_t i = 0; in->x && i < p->inputs; ++i) {
        a[g] += in->x[row * p->inputs + i] *
                in->input_kernel[(at.way * p->inputs + i) * G * H + column];
      }
      if (in->recurrent_bias) r[g] = in->recurrent_bias[at.way * G * H + column];
      for (int64_t k = 0; k < H; ++k) {
        r[g] += h[k] * in->recurrent_kernel[(at.way * H + k) * G * H + column];
      }
    }
    next[u] = h[u];
    unit(p->cell, a, r, &next[u], &c[u]);
  }
  memcpy(h, next, (size_t)H * sizeof *h);
  free(next);
}

static void copy_state(const jp_problem* p, place at, double* const* states, double* h, double* c) {
  const int64_t first = (at.way * p->batch + at.b) * p->hidden;
  for (int64_t u = 0; u < p->hidden; ++u) {
    h[u] = states[0] ? states[0][first + u] : 0;
    c[u] = states[1] ? states[1][first + u] : 0;
  }
}

static void run_row(const jp_problem* p, const model_inputs* in, const model_results* out, place at,
                    double* h, double* c) {
  const int64_t D = model_directions(p), H = p->hidden;
  const bool reverse = p->directions == JP_DIRECTION_REVERSE || at.way % D == 1;
  const int64_t length = in->lengths ? in->lengths[at.layer * p->batch + at.b] : p->steps;
  copy_state(p, at, in->initial_state, h, c);
  for (int64_t i = 0; i < p->steps; ++i) {
    const int64_t t = reverse ? p->steps - 1 - i : i;
    const int64_t row = sequence_row(p, at.layer, at.b, t) * D + at.way % D;
    const bool runs = t < length;
    if (runs && in->resets && in->resets[sequence_row(p, at.way, at.b, t)]) {
      copy_state(p, at, in->reset_state, h, c);
    }
    if (runs) step(p, in, at, t, h, c);
    for (int64_t u = 0; u < H; ++u) out->outputs[row * H + u] = runs ? h[u] : 0;
  }
  const int64_t first = (at.way * p->batch + at.b) * H;
  for (int64_t u = 0; u < H; ++u) {
    out->final_state[0][first + u] = h[u];
    if (out->final_state[1]) out->final_state[1][first + u] = c[u];
  }
}

void model_run(const jp_problem* p, const model_inputs* in, const model_results* out) {
  const int64_t D = model_directions(p);
  double* const h = calloc((size_t)p->hidden * 2, sizeof *h);
  for (int64_t way = 0; way < p->layers * D; ++way) {
    for (int64_t b = 0; b < p->batch; ++b) {
      run_row(p, in, out, (place){way / D, way, b}, h, h + p->hidden);
    }
  }
  free(h);
}
