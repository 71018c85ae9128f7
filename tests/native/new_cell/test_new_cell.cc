// SPDX-License-Identifier: Apache-2.0
// A new cell is its struct and a line in cells.def: the CPU's kernels, compiled with nothing else
// changed, run it forward as the equations say, and backward as finite differences say.
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "native/cpu/isa.h"
#include "tests/native/check.h"
#include "tests/native/run.h"

namespace jp::cpu {
#if defined(__x86_64__)
// Not built here; RunOn is told which instruction set to take.
extern const Isa kAvx512Isa{};
extern const Isa kAvx2Isa{};
#elif defined(__aarch64__)
extern const Isa kNeonIsa{};
#endif
}  // namespace jp::cpu

namespace {

constexpr int64_t T = 5, B = 3, I = 4, H = 6, G = 2;

struct Operands {
  std::vector<double> x, input_kernel, recurrent_kernel, bias, h0;

  std::vector<std::vector<double>*> all() {
    return {&x, &input_kernel, &recurrent_kernel, &bias, &h0};
  }
};

double Sigmoid(double a) { return 1 / (1 + std::exp(-a)); }

// Outputs [B,T,H].
std::vector<double> Plain(const Operands& o) {
  std::vector<double> outputs(B * T * H);
  for (int64_t b = 0; b < B; ++b) {
    std::vector<double> h(o.h0.begin() + b * H, o.h0.begin() + (b + 1) * H);
    for (int64_t t = 0; t < T; ++t) {
      const std::vector<double> before = h;
      for (int64_t unit = 0; unit < H; ++unit) {
        double gate[G];
        for (int64_t g = 0; g < G; ++g) {
          const int64_t column = g * H + unit;
          gate[g] = o.bias[column];
          for (int64_t i = 0; i < I; ++i) {
            gate[g] += o.x[(b * T + t) * I + i] * o.input_kernel[i * G * H + column];
          }
          for (int64_t k = 0; k < H; ++k) {
            gate[g] += before[k] * o.recurrent_kernel[k * G * H + column];
          }
        }
        const double u = Sigmoid(gate[0]), n = std::tanh(gate[1]);
        h[unit] = (1 - u) * n + u * before[unit];
        outputs[(b * T + t) * H + unit] = h[unit];
      }
    }
  }
  return outputs;
}

std::vector<double> Draw(std::mt19937& random, int64_t size) {
  std::normal_distribution<double> values(0, 0.5);
  std::vector<double> drawn(size);
  for (double& value : drawn) value = static_cast<float>(values(random));
  return drawn;
}

std::vector<float> Floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

int main() {
  using jp::Part;
  std::mt19937 random(1);
  Operands o{Draw(random, B * T * I), Draw(random, I * G * H), Draw(random, H * G * H),
             Draw(random, G * H), Draw(random, B * H)};
  const std::vector<double> weights = Draw(random, B * T * H);  // of the outputs in the loss

  jp::Problem problem;
  problem.cell = *jp::FindCell("mixer");
  problem.batch = B, problem.steps = T, problem.inputs = I, problem.hidden = H;
  problem.Add(Part::inputs).Add(Part::bias).Add(Part::residuals);
  const auto x = Floats(o.x), w = Floats(o.input_kernel), r = Floats(o.recurrent_kernel),
             bias = Floats(o.bias), h0 = Floats(o.h0), d_outputs = Floats(weights);
  std::vector<float> outputs(B * T * H), final_h(B * H), residuals(B * T * 2 * H);
  jp::Forward forward;
  forward.x = x.data(), forward.input_kernel[0] = w.data(), forward.bias[0] = bias.data();
  forward.recurrent_kernel[0] = r.data(), forward.initial_state[0] = h0.data();
  forward.outputs = outputs.data(), forward.final_state[0] = final_h.data();
  forward.residuals = residuals.data();
  jp::test::RunOn(jp::cpu::kBaselineIsa, problem, 2, forward);
  const std::vector<double> expected = Plain(o);
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::fabs(outputs[i] - expected[i]) < 1e-5, i, outputs[i], expected[i]);
  }

  problem.pass = jp::Pass::kBackward;
  problem.parts = 0;
  problem.Add(Part::residuals).Add(Part::d_x).Add(Part::d_weights).Add(Part::d_bias);
  const std::vector<float> d_final(B * H);
  std::vector<float> d_x(x.size()), d_w(w.size()), d_r(r.size()), d_bias(bias.size()),
      d_h0(h0.size());
  jp::Backward backward;
  backward.x = x.data(), backward.input_kernel[0] = w.data();
  backward.recurrent_kernel[0] = r.data();
  backward.initial_state[0] = h0.data(), backward.outputs = outputs.data();
  backward.residuals = residuals.data(), backward.d_outputs = d_outputs.data();
  backward.d_final_state[0] = d_final.data(), backward.d_x = d_x.data();
  backward.d_input_kernel[0] = d_w.data(), backward.d_recurrent_kernel[0] = d_r.data();
  backward.d_bias[0] = d_bias.data(), backward.d_initial_state[0] = d_h0.data();
  jp::test::RunOn(jp::cpu::kBaselineIsa, problem, 2, backward);
  const std::vector<float>* gradients[] = {&d_x, &d_w, &d_r, &d_bias, &d_h0};
  for (size_t operand = 0; operand < o.all().size(); ++operand) {
    const std::vector<double> direction = Draw(random, o.all()[operand]->size());
    const auto loss = [&](double step) {
      Operands moved = o;
      std::vector<double>& values = *moved.all()[operand];
      for (size_t i = 0; i < values.size(); ++i) values[i] += step * direction[i];
      const std::vector<double> found = Plain(moved);
      double sum = 0;
      for (size_t i = 0; i < found.size(); ++i) sum += weights[i] * found[i];
      return sum;
    };
    const double slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
    double along = 0;
    for (size_t i = 0; i < direction.size(); ++i) along += direction[i] * (*gradients[operand])[i];
    CHECK(std::fabs(along - slope) < 1e-4 * (1 + std::fabs(slope)), operand, along, slope);
  }
  return jp::test::Finish("a new cell");
}
