// SPDX-License-Identifier: Apache-2.0
// Large and infinite inputs, on every instruction set: gates saturate as float32's functions do, so
// that saturated units have no gradients, and an infinity stays with its row and its unit.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "native/problem/parse.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/reference.h"
#include "tests/native/run.h"

namespace {

using jp::CellTraits;
using jp::DType;
using jp::Part;
using jp::Problem;
using jp::cpu::Isa;
using jp::test::Arrays;
using jp::test::BackwardOf;
using jp::test::Buffers;
using jp::test::ForwardOf;
using jp::test::RunOn;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Problem Sized(const CellTraits& cell, DType dtype, int64_t batch, int64_t steps, int64_t inputs,
              int64_t hidden) {
  Problem problem{.cell = cell,
                  .dtype = dtype,
                  .batch = batch,
                  .steps = steps,
                  .inputs = inputs,
                  .hidden = hidden};
  return problem.Add(Part::inputs);
}

std::string Name(const Isa& isa, const Problem& p) {
  return std::string(isa.name) + " " + std::string(p.cell.name) + " " +
         std::string(NameOf(p.dtype)) + " H=" + std::to_string(p.hidden);
}

// One tanh unit of one infinite input.
void CheckSmallest(const Isa& isa, DType dtype) {
  const Problem given = Sized(*jp::FindCell("elman_tanh"), dtype, 1, 1, 1, 1);
  for (double x : {kInfinity, -kInfinity, 20.0, -20.0}) {
    Arrays arrays = jp::test::MakeArrays(given, 1);
    arrays.x = {x};
    arrays.input_kernel = {1};
    arrays.recurrent_kernel = {0};
    Buffers buffers(arrays);
    const Problem problem = ForwardOf(given);
    RunOn(isa, problem, 1, buffers.forward(problem));
    CHECK(buffers.outputs.values()[0] == (x > 0 ? 1 : -1), Name(isa, given), x,
          buffers.outputs.values()[0]);
  }
}

// Gates far beyond saturation, of inputs as large as timestamps: the weights get no gradient.
void CheckGradients(const Isa& isa, const CellTraits& cell, DType dtype, int64_t hidden) {
  const Problem given = Sized(cell, dtype, 2, 3, 1, hidden);
  Arrays arrays = jp::test::MakeArrays(given, 2);
  for (double& x : arrays.x) x = arrays.Rounded(x > 0 ? 1e6 : -1e6);
  for (double& weight : arrays.input_kernel) weight = weight > 0 ? 1 : -1;
  Buffers buffers(arrays);
  const Problem forward = ForwardOf(given);
  const Problem backward = BackwardOf(given, {Part::d_x, Part::d_weights});
  RunOn(isa, forward, 1, buffers.forward(forward));
  RunOn(isa, backward, 1, buffers.backward(backward));
  for (double gradient : buffers.d_input_kernel.values()) {
    CHECK(gradient == 0, Name(isa, given), gradient);
  }
  for (double gradient : buffers.d_x.values()) CHECK(gradient == 0, Name(isa, given), gradient);
}

// An infinite input of one row's second step: that row goes on as the reference does, and the
// others do not notice. Where H is odd, the products read a lane that belongs to no unit.
void CheckInfinity(const Isa& isa, const CellTraits& cell, DType dtype, int64_t hidden,
                   int threads) {
  const Problem given = Sized(cell, dtype, 2, 4, 3, hidden);
  for (double x : {kInfinity, -kInfinity}) {
    Arrays arrays = jp::test::MakeArrays(given, 3);
    // Weights of one sign: two infinities of different signs in a sum would be a NaN in any case.
    for (double& weight : arrays.input_kernel) weight = std::fabs(weight) + 0.125;
    if (std::string_view(cell.name) == "elman_relu") {  // whose h is infinite, too
      for (double& weight : arrays.recurrent_kernel) weight = std::fabs(weight) + 0.125;
    }
    const int64_t row = 1 * given.steps + 1;
    arrays.x[row * given.inputs] = x;
    arrays.input_gates = InputGates(given, arrays);
    Buffers buffers(arrays);
    const Problem forward = ForwardOf(given);
    RunOn(isa, forward, threads, buffers.forward(forward));
    ReferenceForward(given, arrays);
    const std::vector<double> got = buffers.outputs.values();
    const double tolerance = dtype == DType::kFloat32 ? 1e-5 : 1.0 / 32;
    for (size_t i = 0; i < got.size(); ++i) {
      const double want = arrays.outputs[i];
      const bool same = std::isfinite(want)
                            ? std::fabs(got[i] - want) <= tolerance * (1 + std::fabs(want))
                        : std::isnan(want) ? std::isnan(got[i])
                                           : got[i] == want;
      CHECK(same, Name(isa, given), x, threads, i, got[i], want);
    }
    const Problem backward = BackwardOf(given, {Part::d_gates});
    RunOn(isa, backward, threads, buffers.backward(backward));
    for (double gradient : buffers.d_input_gates.values()) {
      CHECK(std::isfinite(gradient), Name(isa, given), x, gradient);
    }
  }
}

}  // namespace

int main() {
  for (const Isa* isa : jp::test::IsasHere()) {
    for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
      CheckSmallest(*isa, dtype);
      for (const CellTraits& cell : jp::kCells) {
        for (int64_t hidden : {1, 8, 9, 16, 17, 127}) {
          if (std::string_view(cell.name) != "elman_relu")
            CheckGradients(*isa, cell, dtype, hidden);
          for (int threads : {1, 3}) CheckInfinity(*isa, cell, dtype, hidden, threads);
        }
      }
    }
  }
  return jp::test::Finish("saturation");
}
