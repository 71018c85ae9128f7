// SPDX-License-Identifier: Apache-2.0
// The parsing of attributes, and the rules of what goes with what.
#include "native/problem/parse.h"

#include <stdexcept>
#include <utility>
#include <vector>

#include "native/problem/operands.h"

namespace jp {
namespace {

template <class T>
struct Named {
  std::string_view name;
  T value;
};
constexpr Named<DType> kDTypes[] = {{"float32", DType::kFloat32},
                                    {"bfloat16", DType::kBfloat16},
                                    {"float16", DType::kFloat16},
                                    {"float64", DType::kFloat64}};
constexpr Named<Directions> kDirections[] = {{"forward", Directions::kForward},
                                             {"reverse", Directions::kReverse},
                                             {"both", Directions::kBoth}};
constexpr Named<WeightArrays> kWeights[] = {{"one", WeightArrays::kOne},
                                            {"per_direction", WeightArrays::kPerDirection},
                                            {"per_gate", WeightArrays::kPerGate}};

constexpr std::string_view kParts[] = {
#define JP_PART(part) #part,
#define JP_OPERAND(...)
#define JP_RESULT(...)
#include "jax_persistent/problem/operands.def"
#undef JP_PART
#undef JP_OPERAND
#undef JP_RESULT
};

// Values of an array, at most: their bytes, and offsets of a few times as many, are far from 2^63.
constexpr int64_t kMostValues = int64_t{1} << 45;

constexpr int64_t kMostLanes = 1 << 10;  // of a vector

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

std::string Quoted(std::string_view text) { return std::string("'").append(text).append("'"); }

// The values of attributes, each of which is taken once.
class Reader {
 public:
  explicit Reader(const Attributes& attributes) : left_(attributes) {}

  template <class T>
  T Take(const std::string& name, const char* type) {
    const auto found = left_.find(name);
    if (found == left_.end()) Fail(name + ": expected " + type + "; the attribute is missing");
    const T* value = std::get_if<T>(&found->second);
    if (value == nullptr) Fail(name + ": expected " + type + "; got another type");
    const T copy = *value;
    left_.erase(found);
    return copy;
  }

  // What one of the names stands for.
  template <class T, size_t kCount>
  T TakeNamed(const std::string& name, const Named<T> (&known)[kCount]) {
    const auto given = Take<std::string>(name, "a string");
    std::string names;
    for (const Named<T>& each : known) {
      if (each.name == given) return each.value;
      const char* const joint = names.empty() ? "" : &each == &known[kCount - 1] ? " or " : ", ";
      names.append(joint).append(Quoted(each.name));
    }
    Fail(name + ": expected " + names + "; got " + Quoted(given));
  }

  int64_t TakeSize(const std::string& name, int64_t least) {
    const int64_t size = Take<int64_t>(name, "a 64-bit integer");
    if (size < least && size != kUnknownSize) {
      Fail(name + ": expected at least " + std::to_string(least) + "; got " + std::to_string(size));
    }
    return size;
  }

  std::map<std::string, std::string, std::less<>> Rest() {
    std::map<std::string, std::string, std::less<>> options;
    for (const auto& [name, value] : left_) {
      const std::string* text = std::get_if<std::string>(&value);
      if (text == nullptr) Fail(name + ": unknown attribute");
      options.emplace(name, *text);
    }
    return options;
  }

 private:
  Attributes left_;
};

uint32_t ParseParts(std::string_view text) {
  Problem problem;
  int last = -1;
  while (!text.empty()) {
    const size_t end = text.find(' ');
    const std::string_view name = text.substr(0, end);
    int part = 0;
    const int count = static_cast<int>(std::size(kParts));
    while (part < count && kParts[part] != name) ++part;
    if (part == count) Fail("parts: got unknown " + Quoted(name));
    if (part <= last)
      Fail("parts: expected each once, in order; got " + Quoted(name) + " after " +
           Quoted(kParts[last]));
    problem.Add(static_cast<Part>(part));
    last = part;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return problem.parts;
}

// What is wrong with a part of a pass, by what else there is.
struct PartRule {
  Part part;
  bool possible;
  const char* needs;
};

std::string InvalidParts(const Problem& p) {
  const bool forward = p.pass == Pass::kForward;
  const bool has_residuals = p.cell.residuals > 0, reset_after = p.cell.reset_after;
  std::vector<PartRule> rules = {{Part::reset_state, p.has(Part::resets), "resets"}};
  if (forward) {
    if (p.has(Part::inputs) == p.has(Part::input_gates)) {
      return "parts: expected either inputs or input_gates";
    }
    rules.insert(rules.end(), {{Part::bias, p.has(Part::inputs), "inputs"},
                               {Part::recurrent_bias, reset_after, "a cell that resets after"},
                               {Part::residuals, has_residuals, "a cell that has some"}});
  } else {
    if (p.has(Part::residuals) != has_residuals) {
      return std::string("parts: expected ") + (has_residuals ? "" : "no ") + "residuals of cell " +
             Quoted(p.cell.name);
    }
    const bool d_recurrent = p.has(Part::d_gates) && reset_after;
    if (p.has(Part::d_recurrent_gates) != d_recurrent) {
      return std::string("parts: expected ") + (d_recurrent ? "" : "no ") + "d_recurrent_gates";
    }
    rules.insert(rules.end(), {{Part::chunked, false, "a forward pass"},
                               {Part::d_bias, p.has(Part::d_weights), "d_weights"},
                               {Part::d_recurrent_bias, p.has(Part::d_weights) && reset_after,
                                "d_weights and a cell that resets after"}});
  }
  for (const PartRule& rule : rules) {
    if (p.has(rule.part) && !rule.possible) {
      return "parts: " + std::string(NameOf(rule.part)) + " needs " + rule.needs;
    }
  }
  return {};
}

std::string InvalidSizes(const std::vector<ArrayType>& arrays) {
  for (const ArrayType& array : arrays) {
    int64_t values = 1;
    for (size_t i = 0; i < array.sizes.size(); ++i) {
      const int64_t size = array.sizes[i];
      if (size == kUnknownSize) continue;
      if (size < 1) {
        return array.name + ": expected every size to be at least 1; got " + std::to_string(size);
      }
      if (size > kMostValues / values) return array.name + ": expected at most 2^45 values";
      values *= size;
    }
  }
  return {};
}

}  // namespace

ParsedProblem ParseProblem(Pass pass, const Attributes& attributes) {
  Reader reader(attributes);
  Problem problem;
  problem.pass = pass;
  const std::string cell = reader.Take<std::string>("cell", "a string");
  const CellTraits* traits = FindCell(cell);
  if (traits == nullptr) Fail("cell: got unknown " + Quoted(cell));
  problem.cell = *traits;
  problem.dtype = reader.TakeNamed("dtype", kDTypes);
  problem.groups = reader.TakeSize("groups", 1);
  problem.batch = reader.TakeSize("batch", 1);
  problem.steps = reader.TakeSize("steps", 1);
  problem.inputs = reader.TakeSize("inputs", 0);
  problem.hidden = reader.TakeSize("hidden", 1);
  problem.directions = reader.TakeNamed("directions", kDirections);
  problem.weights = reader.TakeNamed("weights", kWeights);
  problem.time_major = reader.Take<bool>("time_major", "a boolean");
  problem.tf32 = reader.Take<bool>("tf32", "a boolean");
  problem.packed_lanes = reader.TakeSize("packed_lanes", 0);
  problem.parts = ParseParts(reader.Take<std::string>("parts", "a string"));
  const std::string invalid = Invalid(problem);
  if (!invalid.empty()) Fail(invalid);
  return {problem, reader.Rest()};
}

std::string Invalid(const Problem& problem) {
  std::string invalid = InvalidParts(problem);
  if (!invalid.empty()) return invalid;
  if (problem.packed_lanes != 0 && (problem.pass != Pass::kForward || !problem.has(Part::inputs))) {
    return "packed_lanes: expected 0 but in a forward pass that is given the inputs; got " +
           std::to_string(problem.packed_lanes);
  }
  if (problem.packed_lanes < 0 || problem.packed_lanes > kMostLanes) {
    return "packed_lanes: expected 0 to " + std::to_string(kMostLanes) + "; got " +
           std::to_string(problem.packed_lanes);
  }
  if (problem.packed_lanes != 0 && problem.weights != WeightArrays::kOne) {
    return "weights: expected 'one', as the kernels are packed";
  }
  for (const auto& [name, size] : {std::pair("groups", problem.groups),
                                   {"batch", problem.batch},
                                   {"inputs", problem.inputs},
                                   {"hidden", problem.hidden}}) {
    if (size > kMostValues) {
      return std::string(name) + ": expected at most 2^45; got " + std::to_string(size);
    }
  }
  if (problem.steps > INT32_MAX) {
    return "steps: expected at most 2^31 - 1, as lengths are; got " + std::to_string(problem.steps);
  }
  if (problem.groups != kUnknownSize && problem.groups % problem.ways() != 0) {
    return "groups: expected an even number, two of each layer; got " +
           std::to_string(problem.groups);
  }
  const ArrayTypes types = ArrayTypesOf(problem);
  invalid = InvalidSizes(types.operands);
  return invalid.empty() ? InvalidSizes(types.results) : invalid;
}

bool HasAllSizes(const Problem& problem) {
  const ArrayTypes types = ArrayTypesOf(problem);
  for (const auto* arrays : {&types.operands, &types.results}) {
    for (const ArrayType& array : *arrays) {
      for (int64_t size : array.sizes) {
        if (size == kUnknownSize) return false;
      }
    }
  }
  return true;
}

std::string_view NameOf(DType type) {
  for (const Named<DType>& named : kDTypes) {
    if (named.value == type) return named.name;
  }
  return "unknown";
}

std::string_view NameOf(Part part) { return kParts[static_cast<int>(part)]; }

}  // namespace jp
