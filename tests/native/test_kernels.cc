// The kernels of every instruction set that runs here against a plain reference in double.
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "native/cpu/isa.h"
#include "native/cpu/recurrence.h"
#include "native/cpu/scratch.h"
#include "native/cpu/team.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/reference.h"

namespace {

using jp::CellTraits;
using jp::cpu::DType;
using jp::cpu::Isa;
using jp::cpu::Shape;
using jp::test::Arrays;
using jp::test::Buffer;
using jp::test::Buffers;

// Runs every helper on a thread of its own; they end with the call.
struct Threads {
  std::vector<std::thread> threads;
  ~Threads() {
    for (std::thread& thread : threads) thread.join();
  }
  jp::cpu::Team::Schedule schedule() {
    return [this](std::function<void()> task) { threads.emplace_back(std::move(task)); };
  }
};

int jobs_by_units = 0, jobs_by_rows = 0;  // of several workers

// As jp::cpu::Run, but for an instruction set of our choice, and on working memory full of NaN, so
// that a value which is read before it is written shows.
template <class CallArrays>
void RunOn(const Isa& isa, const Shape& shape, const CellTraits& cell, DType dtype, int threads,
           const CallArrays& arrays) {
  constexpr bool kIsForward = std::is_same_v<CallArrays, jp::cpu::Forward>;
  const jp::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  jp::cpu::Job<CallArrays> job = jp::cpu::MakeJob(shape, cell, dtype, arrays, facts);
  const size_t bytes = jp::cpu::LayOut(job, nullptr);
  std::vector<uint8_t> memory(bytes + 63, 0xff);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  jp::cpu::LayOut(job, memory.data() + (64 - address % 64) % 64);
  const auto step = [&] {
    if constexpr (kIsForward)
      return isa.forward;
    else
      return isa.backward;
  }();
  if (job.pass.workers > 1) ++(job.pass.by_rows() ? jobs_by_rows : jobs_by_units);
  Threads helpers;
  jp::cpu::Team::Run(job.pass.workers, shape.groups * job.phases, helpers.schedule(),
                     [&](int worker, int64_t s) { step(job, worker, s); });
}

struct Case {
  const Isa& isa;
  Shape shape;
  const CellTraits& cell;
  DType dtype;

  std::string name() const {
    return std::string(isa.name) + " " + std::string(cell.name) +
           (dtype == DType::kFloat32 ? " float32" : " bfloat16") +
           " N=" + std::to_string(shape.groups) + " B=" + std::to_string(shape.batch) +
           " T=" + std::to_string(shape.steps) + " I=" + std::to_string(shape.inputs) +
           " H=" + std::to_string(shape.hidden) + (shape.reverse ? " reverse" : "") +
           (shape.time_major ? " time-major" : "");
  }
};

// `terms` is how many roundings, of either sign and of terms as large as any sum, a value is made
// of.
void CheckClose(const Case& c, const char* what, const Buffer& got,
                const std::vector<double>& expected, double terms = 1) {
  // Float: rounding of sums of this length. Bfloat16: a flip of the last bit, and what grows of it.
  const double relative = c.dtype == DType::kFloat32 ? 2e-5 : 1.0 / 32;
  double scale = 1e-3;
  for (double value : expected) {
    scale = std::fmax(scale, terms > 1 ? std::fabs(value) : std::fmin(std::fabs(value), 1));
  }
  const std::vector<double> values = got.values();
  for (size_t i = 0; i < values.size(); ++i) {
    const double limit = relative * (scale * std::sqrt(terms) + std::fabs(expected[i]));
    CHECK(std::fabs(values[i] - expected[i]) <= limit, c.name(), what, i, values[i], expected[i]);
  }
}

void CheckForward(const Case& c, Buffers& buffers, Arrays& arrays) {
  RunOn(c.isa, c.shape, c.cell, c.dtype, 1, buffers.forward(arrays, true));
  ReferenceForward(c.shape, c.cell, arrays);
  CheckClose(c, "outputs", buffers.outputs, arrays.outputs);
  CheckClose(c, "saved", buffers.saved, arrays.saved);
  for (int i = 0; i < c.cell.states; ++i) {
    CheckClose(c, i == 0 ? "h" : "c", *buffers.final[i], arrays.final[i]);
  }
}

void CheckWeights(const Case& c, Buffers& buffers, const Arrays& arrays) {
  Buffers summed(arrays, c.cell);
  RunOn(c.isa, c.shape, c.cell, c.dtype, 1, summed.forward(arrays, true));
  RunOn(c.isa, c.shape, c.cell, c.dtype, 1, summed.backward_with_weights(arrays));
  const double terms = static_cast<double>(c.shape.batch * c.shape.steps);
  CheckClose(c, "d_input_kernel", summed.d_input_kernel, arrays.d_input_kernel, terms);
  CheckClose(c, "d_bias", summed.d_bias, arrays.d_bias, terms);
  CheckClose(c, "d_recurrent_kernel", summed.d_kernel, arrays.d_kernel, terms);
  CheckClose(c, "d_recurrent_bias", summed.d_recurrent_bias, arrays.d_recurrent_bias, terms);
  CHECK(summed.d_x.SameBytes(buffers.d_x), c.name());
  for (size_t i = 0; i < summed.d_initial.size(); ++i) {
    CHECK(summed.d_initial[i]->SameBytes(*buffers.d_initial[i]), c.name());
  }
  Buffers together(arrays, c.cell);
  RunOn(c.isa, c.shape, c.cell, c.dtype, 5, together.forward(arrays, true));
  RunOn(c.isa, c.shape, c.cell, c.dtype, 5, together.backward_with_weights(arrays));
  const auto expected = summed.all(), got = together.all();
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i]->SameBytes(*expected[i]), c.name(), i);
    CHECK(got[i]->Intact(), c.name(), i);
  }
}

// From what the kernel itself stored, so that the two passes are judged apart.
void CheckBackward(const Case& c, Buffers& buffers, Arrays& arrays) {
  RunOn(c.isa, c.shape, c.cell, c.dtype, 1, buffers.backward(arrays));
  arrays.outputs = buffers.outputs.values();
  arrays.saved = buffers.saved.values();
  ReferenceBackward(c.shape, c.cell, arrays);
  CheckClose(c, "d_x", buffers.d_x, arrays.d_x);
  CheckClose(c, "d_gates_x", buffers.d_gates_x, arrays.d_gates_x);
  CheckClose(c, "d_product", buffers.d_product, arrays.d_product);
  for (int i = 0; i < c.cell.states; ++i) {
    CheckClose(c, i == 0 ? "d_h" : "d_c", *buffers.d_initial[i], arrays.d_initial[i]);
  }
}

// The number of workers must not show in a single bit, nor what else is asked for.
void CheckThreads(const Case& c, Buffers& alone, const Arrays& arrays) {
  for (int threads : {2, 3, 5}) {
    Buffers together(arrays, c.cell);
    RunOn(c.isa, c.shape, c.cell, c.dtype, threads, together.forward(arrays, true));
    RunOn(c.isa, c.shape, c.cell, c.dtype, threads, together.backward(arrays));
    const auto expected = alone.all(), got = together.all();
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i]->SameBytes(*expected[i]), c.name(), threads, i);
      CHECK(got[i]->Intact(), c.name(), threads, i);
    }
  }
  Buffers unsaved(arrays, c.cell);
  RunOn(c.isa, c.shape, c.cell, c.dtype, 2, unsaved.forward(arrays, false));
  CHECK(unsaved.outputs.SameBytes(alone.outputs), c.name());
  Buffers fixed_inputs(arrays, c.cell);
  RunOn(c.isa, c.shape, c.cell, c.dtype, 2, fixed_inputs.forward(arrays, true));
  jp::cpu::Backward without = fixed_inputs.backward(arrays);
  without.d_x = nullptr;
  without.input_kernel = nullptr;
  Shape no_inputs = c.shape;
  no_inputs.inputs = 0;
  RunOn(c.isa, no_inputs, c.cell, c.dtype, 2, without);
  CHECK(fixed_inputs.d_gates_x.SameBytes(alone.d_gates_x), c.name());
}

void CheckCase(const Case& c, int seed) {
  Arrays arrays = jp::test::MakeArrays(c.shape, c.cell, c.dtype, seed);
  Buffers buffers(arrays, c.cell);
  CheckForward(c, buffers, arrays);
  CheckBackward(c, buffers, arrays);
  CheckWeights(c, buffers, arrays);
  CheckThreads(c, buffers, arrays);
  for (Buffer* buffer : buffers.all()) CHECK(buffer->Intact(), c.name());
}

// What the library itself runs is the chosen instruction set's kernel, and the others give the
// same.
void CheckLibrary(const Case& c) {
  const Arrays arrays = jp::test::MakeArrays(c.shape, c.cell, c.dtype, 11);
  Buffers library(arrays, c.cell);
  Threads helpers;
  jp::cpu::Run(c.shape, c.cell, c.dtype, library.forward(arrays, true), 2, helpers.schedule());
  jp::cpu::Run(c.shape, c.cell, c.dtype, library.backward(arrays), 2, helpers.schedule());
  jp::cpu::Run(c.shape, c.cell, c.dtype, library.backward_with_weights(arrays), 2,
               helpers.schedule());
  const auto got = library.all();
  for (const Isa* isa : jp::test::IsasHere()) {
    Buffers direct(arrays, c.cell);
    RunOn(*isa, c.shape, c.cell, c.dtype, 2, direct.forward(arrays, true));
    RunOn(*isa, c.shape, c.cell, c.dtype, 2, direct.backward(arrays));
    RunOn(*isa, c.shape, c.cell, c.dtype, 2, direct.backward_with_weights(arrays));
    const auto expected = direct.all();
    for (size_t i = 0; i < got.size(); ++i) {
      if (jp::test::Fuses(c.isa) == jp::test::Fuses(*isa)) {
        CHECK(got[i]->SameBytes(*expected[i]), c.name(), isa->name, i);
      } else {
        const double terms = static_cast<double>(c.shape.batch * c.shape.steps);
        CheckClose(c, isa->name, *got[i], expected[i]->values(), terms);
      }
    }
  }
}

// N, B, T, I, H: odd sizes, one of each, rows beyond a tile, a block and a chunk, several chunks,
// units and inputs beyond a panel, inputs beyond a part of the depth, fewer inputs than slices,
// several workers with units and with rows of their own, as many rows each and not, a single step
// of weights that are not kept, a smaller slice behind a larger one.
constexpr int64_t kSizes[][5] = {{1, 3, 5, 9, 7},    {3, 2, 4, 6, 37},   {1, 1, 1, 1, 1},
                                 {1, 7, 2, 300, 33}, {1, 13, 23, 4, 19}, {2, 5, 3, 11, 66},
                                 {1, 67, 2, 17, 9},  {1, 131, 2, 5, 6},  {1, 4, 6, 3, 8},
                                 {1, 1, 150, 2, 16}, {1, 5, 31, 5, 50},  {2, 3, 1, 150, 70},
                                 {1, 1, 1, 70, 90},  {1, 127, 1, 5, 66}, {1, 1, 3, 5, 130}};

// From here on a case takes long under a sanitizer or an emulator: in two of four ways only.
constexpr int64_t kManyRows = 100;

}  // namespace

// With an argument: only what JAX_PERSISTENT_ISA chooses, against all that run here.
int main(int argc, char**) {
  std::vector<const Isa*> isas;
  if (argc < 2) isas = jp::test::IsasHere();
  for (const Isa* isa : isas) {
    std::cout << isa->name << ", " << isa->lanes << " lanes\n";
    int seed = 0;
    for (const auto& [N, B, T, I, H] : kSizes) {
      for (const CellTraits& cell : jp::kCells) {
        for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
          for (bool reverse : {false, true}) {
            for (bool time_major : {false, true}) {
              ++seed;
              if (B * T > kManyRows && reverse != time_major) continue;
              CheckCase({*isa, {N, B, T, H, reverse, time_major, I}, cell, dtype}, seed);
            }
          }
        }
      }
    }
  }
  // Tiles of several heights, a row alone, bfloat16 that is widened beforehand.
  for (const Shape& shape : {Shape{2, 5, 3, 66, true, false, 7}, Shape{1, 1, 4, 37, false, true, 3},
                             Shape{1, 13, 3, 19, true, true, 6}}) {
    for (const CellTraits& cell : jp::kCells) {
      for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
        CheckLibrary({jp::cpu::ChosenIsa(), shape, cell, dtype});
      }
    }
  }
  if (argc < 2) CHECK(jobs_by_units > 0 && jobs_by_rows > 0, jobs_by_units, jobs_by_rows);
  return jp::test::Finish("kernels");
}
