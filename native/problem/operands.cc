// SPDX-License-Identifier: Apache-2.0
// The arrays of a problem, from the table of operands.
#include "native/problem/operands.h"

#include "native/problem/packed.h"

namespace jp {
namespace {

int64_t Times(int count, int64_t size) { return size == kUnknownSize ? size : count * size; }
int64_t Divided(int64_t size, int by) { return size == kUnknownSize ? size : size / by; }
int64_t Rows(int64_t size) { return size == kUnknownSize ? size : PackedRows(size); }
int64_t Panels(const Problem& p) {
  if (p.hidden == kUnknownSize || p.packed_lanes == 0) return kUnknownSize;
  return PanelCount(p.cell.gates, p.hidden, p.packed_lanes);
}

// A copy without spaces, in the problem's layout.
std::string InMemory(const Operand& operand, const Problem& problem) {
  const bool apart =
      operand.count == OperandCount::kPerGate && problem.weights != WeightArrays::kOne;
  std::string letters;
  for (char letter : operand.dimensions) {
    if (letter == ' ' || (apart && letter == 'd')) continue;
    const bool of_a_gate = apart && problem.weights == WeightArrays::kPerGate && letter == 'g';
    letters += of_a_gate ? 'u' : letter;
  }
  const auto replace = [&](bool is_so, const char* from, const char* to) {
    const size_t at = letters.find(from);
    if (is_so && at != std::string::npos) letters.replace(at, 2, to);
  };
  replace(problem.time_major, "bt", "tb");
  replace(problem.packed_lanes != 0, "ig", "pjw");
  replace(problem.packed_lanes != 0, "hg", "pkw");
  return letters;
}

template <class Arrays>
ArrayTypes ArrayTypesOfPass(const Problem& problem) {
  ArrayTypes types;
  const Arrays none{};
  ForEachOperand(none, [&](const Operand& operand, const auto& /*member*/) {
    if (!problem.has(operand.part)) return;
    const std::string dimensions = InMemory(operand, problem);
    std::vector<int64_t> sizes;
    for (char letter : dimensions) sizes.push_back(SizeOf(problem, letter));
    const int count = CountOf(operand, problem);
    const bool numbered = operand.count == OperandCount::kPerState || count > 1;
    for (int i = 0; i < count; ++i) {
      std::string name = operand.name;
      if (numbered) name.append("[").append(std::to_string(i)).append("]");
      (operand.is_result ? types.results : types.operands)
          .push_back({std::move(name), operand.type, sizes, dimensions});
    }
  });
  return types;
}

}  // namespace

int CountOf(const Operand& operand, const Problem& problem) {
  switch (operand.count) {
    case OperandCount::kOne: return 1;
    case OperandCount::kPerState: return problem.cell.states;
    case OperandCount::kPerGate: return problem.weight_arrays();
  }
  return 0;
}

int64_t SizeOf(const Problem& problem, char dimension) {
  switch (dimension) {
    case 'n': return Divided(problem.groups, problem.ways());
    case 'd': return problem.ways();
    case 'b': return problem.batch;
    case 't': return problem.steps;
    case 'i': return problem.inputs;
    case 'h':
    case 'u': return problem.hidden;
    case 'g': return Times(problem.cell.gates, problem.hidden);
    case 'r': return Times(problem.cell.residuals, problem.hidden);
    case 'p': return Panels(problem);
    case 'j': return Rows(problem.inputs);
    case 'k': return Rows(problem.hidden);
    case 'w': return PanelVectors(problem.cell.gates) * problem.packed_lanes;
    default: return 0;
  }
}

ArrayTypes ArrayTypesOf(const Problem& problem) {
  return problem.pass == Pass::kForward ? ArrayTypesOfPass<Forward>(problem)
                                        : ArrayTypesOfPass<Backward>(problem);
}

}  // namespace jp
