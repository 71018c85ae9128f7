// SPDX-License-Identifier: Apache-2.0
// Finds the parts of a step, or says why there are none.
#include "cuda/program_step.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <stdexcept>

#include "cuda/program_arrays.h"

namespace jp::cuda {
namespace {

// Of more rows of weights a unit, their sums would leave no registers for the weights.
constexpr int kMostRows = 6, kMostFloat32Rows = 4;
constexpr int kMostValues = 8;  // of a unit, in a message

// Why a program is refused, thrown from wherever that is found.
struct Refused {
  std::string why;
};
[[noreturn]] void Refuse(std::string why) { throw Refused{std::move(why)}; }

std::string Count(int64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// The one loop of a stage.
const ProgramLoop* LoopOf(const std::vector<ProgramLoop>& stage) {
  if (stage.size() == 1) return &stage[0];
  Refuse("it works on vectors of " + Count(stage[0].width, "feature") + " and of " +
         std::to_string(stage[1].width) + "; the GPU kernels take those of one width");
}

void CheckExchanges(const Program& program) {
  int64_t reductions = 0, products = 0;
  for (const auto& stage : program.stages) {
    bool multiplies = false;
    for (const ProgramLoop& loop : stage) {
      multiplies = multiplies || !loop.slices.empty();
      for (const Instruction& i : loop.code) reductions += i.op == Operation::kReduce;
    }
    products += multiplies;
  }
  if (reductions > 0) {
    Refuse("it has " + Count(reductions, "sum") +
           " or other reductions over features; the GPU kernels have products alone");
  }
  if (products == 0) Refuse("it has no product; the GPU kernels are built around one");
  const auto stages = std::ssize(program.stages);
  const bool waits_first = LoopOf(program.stages[0])->slices.empty();
  if (products > 1 || stages > 1 + waits_first) {
    Refuse("a step has " + Count(stages - waits_first, "exchange") +
           ", as products wait for each other; the GPU kernels have one");
  }
}

class Finder {
 public:
  explicit Finder(const Program& program) : program_(program) {}

  ProgramStep Find() {
    if (program_.packed_lanes != 0) Refuse("its matrices were packed for a CPU");
    CheckExchanges(program_);
    if (std::max(program_.operands.size(), program_.carries + program_.ys.size()) >
        kMostProgramArrays) {
      Refuse("it has more than " + std::to_string(kMostProgramArrays) + " operands or results");
    }
    step_.after = LoopOf(program_.stages.back());
    if (program_.stages.size() == 2) step_.before = LoopOf(program_.stages[0]);
    step_.hidden = step_.after->width;
    if (step_.before != nullptr && step_.before->width != step_.hidden) {
      Refuse("it works on vectors of " + Count(step_.before->width, "feature") + " and of " +
             std::to_string(step_.hidden) + "; the GPU kernels take those of one width");
    }
    FindProduct();
    FindKept();
    return step_;
  }

 private:
  void FindProduct() {
    const auto& slices = step_.after->slices;
    for (const ProgramSlice& slice : slices) {
      const int64_t features = slice.heads * slice.k;
      const bool fits = slice.heads > 1 ? features == step_.hidden : features % step_.hidden == 0;
      if (!fits || slice.offset % step_.hidden != 0) {
        Refuse("it multiplies a vector of " + Count(features, "feature") + " to " +
               std::to_string(step_.hidden) + "; the GPU kernels take as many, or a multiple");
      }
      if (TypeOf(slice) != TypeOf(slices[0])) Refuse("it has matrices of two types");
      for (int64_t i = 0; i < features / step_.hidden; ++i) {
        const BufferPart first = step_.PartAt(slice.buffer, slice.offset);
        step_.message.push_back({{first.buffer, first.part + i}, &slice, i * step_.hidden});
      }
    }
    const int values = static_cast<int>(step_.message.size()), rows = step_.products();
    if (slices.size() > 1 && !AddsProducts(*step_.after)) {
      Refuse("a step multiplies " + Count(std::ssize(slices), "vector") +
             "; the GPU kernels take the products of one, or the sum of one product of each");
    }
    const bool is_float32 = TypeOf(slices[0]) == ValueType::kFloat32;
    const int most_rows = is_float32 ? kMostFloat32Rows : kMostRows;
    if (std::min(rows, values) > 1 || rows > most_rows || values > kMostValues) {
      Refuse("its matrix is [" + std::to_string(values) + "*H, " + std::to_string(rows) +
             "*H]; the GPU kernels take [H, G*H] with G up to " + std::to_string(most_rows) +
             ", or [G*H, H] with G up to " + std::to_string(kMostValues));
    }
    step_.pass = values > 1 ? Pass::kBackward : Pass::kForward;
    step_.gates = std::max(rows, values);
  }

  ValueType TypeOf(const ProgramSlice& slice) const {
    return program_.operands[slice.gates[0].operand].type;
  }

  // Whether an operation's result is the sum of this register and of something.
  static bool IsAddend(Operation op, int at) {
    const bool has_factors = op == Operation::kMulAdd || op == Operation::kSubMul;
    return op == Operation::kAdd || (has_factors && at == 3);
  }

  // Whether a loop has one product of each slice, and reads nothing of them but their sum.
  static bool AddsProducts(const ProgramLoop& loop) {
    using Set = uint64_t;  // of slices whose product is a summand of a value, and nothing else
    const auto count = std::ssize(loop.slices);
    if (count > kMostValues) return false;
    const Set all = (Set{1} << count) - 1;
    std::map<std::pair<RegisterKind, int>, Set> in;
    const auto of = [&](const Register& r) { return in[{r.kind, r.index}]; };
    for (const Instruction& i : loop.code) {
      Set found = 0;
      const bool has_result = !IsStore(i.op);
      for (int a = has_result; a < has_result + i.reads; ++a) {
        const Set each = of(i.at[a]);
        const bool is_addend = IsAddend(i.op, a);
        if (is_addend ? (found & each) != 0 : each != 0 && each != all) return false;
        if (is_addend) found |= each;
      }
      if (i.op == Operation::kLoadProduct) found = Set{1} << i.numbers[0];
      if (has_result) in[{i.at[0].kind, i.at[0].index}] = found;
    }
    return std::ranges::all_of(loop.slices, [](const auto& s) { return s.gates.size() == 1; });
  }

  void FindKept() {
    for (int64_t buffer = 0; buffer < program_.carries; ++buffer) {
      const int64_t width = program_.buffers[buffer].width;
      if (width % step_.hidden != 0) {
        Refuse("it carries a vector of " + Count(width, "feature") + " beside those of " +
               std::to_string(step_.hidden) + "; the GPU kernels take as many, or a multiple");
      }
      for (int64_t part = 0; part < width / step_.hidden; ++part) {
        step_.kept.push_back({buffer, part});
      }
    }
    if (step_.before != nullptr) CheckBuffers(*step_.before);
    CheckBuffers(*step_.after);
    for (const MessageValue& value : step_.message) {
      if (!program_.buffers[value.part.buffer].is_carry) CheckStored(value.part);
    }
    for (const Instruction& i : step_.after->code) {
      if (i.op == Operation::kLoadBuffer) Keep(step_.PartAt(i.numbers[0], i.numbers[1]));
    }
  }

  // What `after` reads of a buffer.
  void Keep(const BufferPart& part) {
    if (!program_.buffers[part.buffer].is_carry) {
      CheckStored(part);
      if (step_.PlaceOf(part) < 0) step_.kept.push_back(part);
      return;
    }
    const int place = step_.PlaceOf(part);
    const bool is_known = std::ranges::find(step_.replaced, place) != step_.replaced.end();
    if (step_.before != nullptr && Stores(*step_.before, part) && !is_known) {
      step_.replaced.push_back(place);
    }
  }

  void CheckStored(const BufferPart& part) const {
    if (step_.before == nullptr || !Stores(*step_.before, part)) {
      throw std::invalid_argument("program: a buffer is read that nothing has filled");
    }
  }

  bool Stores(const ProgramLoop& loop, const BufferPart& part) const {
    return std::ranges::any_of(loop.code, [&](const Instruction& i) {
      return i.op == Operation::kStoreBuffer && step_.PartAt(i.numbers[0], i.numbers[1]) == part;
    });
  }

  // Units must read what they have stored themselves.
  void CheckBuffers(const ProgramLoop& loop) const {
    for (const Instruction& i : loop.code) {
      if (i.op != Operation::kLoadBuffer && i.op != Operation::kStoreBuffer) continue;
      const bool one_for_all = i.op == Operation::kLoadBuffer && step_.hidden > 1 &&
                               i.at[0].kind != RegisterKind::kUnits;
      if (i.numbers[1] % step_.hidden != 0 || one_for_all) {
        Refuse("a unit reads others' values without a product, as where vectors are shifted");
      }
    }
  }

  const Program& program_;
  ProgramStep step_;
};

}  // namespace

int ProgramStep::PlaceOf(const BufferPart& part) const {
  const auto found = std::ranges::find(kept, part);
  return found == kept.end() ? -1 : static_cast<int>(found - kept.begin());
}

int ProgramStep::PlaceBefore(const BufferPart& part) const {
  const int place = PlaceOf(part);
  const auto found = std::ranges::find(replaced, place);
  return place < 0 || found == replaced.end()
             ? place
             : static_cast<int>(std::ssize(kept) + (found - replaced.begin()));
}

ProgramStep StepOf(const Program& program) {
  try {
    return Finder(program).Find();
  } catch (Refused& refused) {
    ProgramStep step;
    step.refusal = std::move(refused.why);
    return step;
  }
}

Problem ProblemOf(const Program& program, const ProgramStep& step) {
  const bool is_float =
      program.operands[step.message[0].slice->gates[0].operand].type == ValueType::kFloat32;
  Problem problem;
  problem.pass = step.pass;
  problem.cell = {.name = "scan",
                  .kind = {},
                  .gates = step.gates,
                  .residuals = static_cast<int>(program.ys.size()),
                  .states = step.states(),
                  .reset_after = false};
  problem.dtype = is_float ? DType::kFloat32 : DType::kBfloat16;
  problem.groups = program.groups;
  problem.batch = program.rows;
  problem.steps = program.steps;
  problem.hidden = step.hidden;
  // The kernel is laid out like a backward pass, which runs against its rows' direction.
  problem.directions = program.reverse ? Directions::kForward : Directions::kReverse;
  problem.time_major = true;
  problem.tf32 = program.tf32;
  return problem.Add(step.pass == Pass::kForward ? Part::input_gates : Part::d_gates);
}

}  // namespace jp::cuda
