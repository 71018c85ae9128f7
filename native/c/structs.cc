// SPDX-License-Identifier: Apache-2.0
// The checks of the interface's structs, and what they become.
#include "native/c/structs.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

#include "native/problem/parse.h"

namespace jp::c {
namespace {

static_assert(sizeof(jp_thread_pool) == 24 && sizeof(jp_device_options) == 32 &&
                  sizeof(jp_problem) == 80 && sizeof(jp_array_info) == 104,
              "fields without padding, so that a larger struct's unknown bytes are its fields");
static_assert(kMostStates <= JP_MAX_STATES);

constexpr size_t kMostStructBytes = 1 << 12;  // of any version: more is no size

[[noreturn]] void Fail(const std::string& text) { throw std::invalid_argument(text); }

struct NamedPart {
  Part part;
  uint32_t flag;
};
constexpr NamedPart kParts[] = {{Part::inputs, JP_PART_INPUTS},
                                {Part::input_gates, JP_PART_INPUT_GATES},
                                {Part::bias, JP_PART_BIAS},
                                {Part::recurrent_bias, JP_PART_RECURRENT_BIAS},
                                {Part::lengths, JP_PART_LENGTHS},
                                {Part::resets, JP_PART_RESETS},
                                {Part::reset_state, JP_PART_RESET_STATE},
                                {Part::chunked, JP_PART_CHUNKED},
                                {Part::residuals, JP_PART_RESIDUALS},
                                {Part::d_x, JP_PART_D_X},
                                {Part::d_weights, JP_PART_D_WEIGHTS},
                                {Part::d_bias, JP_PART_D_BIAS},
                                {Part::d_recurrent_bias, JP_PART_D_RECURRENT_BIAS},
                                {Part::d_gates, JP_PART_D_GATES},
                                {Part::d_recurrent_gates, JP_PART_D_RECURRENT_GATES}};
static_assert(std::size(kParts) == static_cast<size_t>(Part::always), "a flag for each part");

// Of the parts that are given, those of a pass: that have an array in it, or say how it is run.
template <class Arrays>
uint32_t PartsOf(uint32_t flags) {
  Problem parts;
  const Arrays none{};
  ForEachOperand(none, [&](const Operand& operand, const auto& /*member*/) {
    for (const auto& [part, flag] : kParts) {
      if (part == operand.part && (flags & flag) != 0) parts.Add(part);
    }
  });
  return parts.parts;
}

uint32_t PartsOf(uint32_t flags, Pass pass) {
  uint32_t unknown = flags;
  for (const NamedPart& named : kParts) unknown &= ~named.flag;
  if (unknown != 0) {
    Fail("parts: expected JP_PART_* flags; got " + std::to_string(unknown) + " besides");
  }
  if (pass == Pass::kBackward) return PartsOf<Backward>(flags);
  Problem forward{.parts = PartsOf<Forward>(flags)};
  if ((flags & JP_PART_CHUNKED) != 0) forward.Add(Part::chunked);
  return forward.parts;
}

const CellTraits& CellOf(const char* name) {
  const CellTraits* cell = FindCell(&NotNull(name, "cell"));
  if (cell != nullptr) return *cell;
  std::string known;
  for (const CellTraits& traits : kCells) {
    known.append(known.empty() ? "'" : ", '").append(traits.name).append("'");
  }
  Fail("cell: expected one of " + known + "; got '" + name + "'");
}

template <class T, size_t kCount>
T Choice(int32_t value, const T (&choices)[kCount], const char* name, const char* expected) {
  if (value >= 0 && value < static_cast<int32_t>(kCount)) return choices[value];
  Fail(std::string(name) + ": expected " + expected + "; got " + std::to_string(value));
}

constexpr Pass kPasses[] = {Pass::kForward, Pass::kBackward};
constexpr DType kDTypes[] = {DType::kFloat32, DType::kBfloat16, DType::kFloat16, DType::kFloat64};
constexpr Directions kDirections[] = {Directions::kForward, Directions::kReverse,
                                      Directions::kBoth};

int64_t CheckedSize(int64_t size, int64_t least, const char* name) {
  if (size >= least) return size;
  Fail(std::string(name) + ": expected at least " + std::to_string(least) + "; got " +
       std::to_string(size));
}

// A pointer, the `state`th of its array if that is not negative. It is there if the problem has the
// part and the cell the state, and only then. Takes no memory if all is right.
void CheckPointer(const Problem& problem, Part part, const char* name, int state, const void* given,
                  size_t alignment) {
  const bool is_state = state < problem.cell.states, has = problem.has(part) && is_state;
  const bool aligned = reinterpret_cast<uintptr_t>(given) % alignment == 0;
  if (has == (given != nullptr) && aligned) return;
  std::string text = name;
  if (state >= 0) text.append("[").append(std::to_string(state)).append("]");
  if (!aligned) return CheckAlignment(given, alignment, text.c_str());
  text += has ? ": expected an array" : ": expected NULL";
  if (!is_state) {
    text += ", as the cell has " + std::to_string(problem.cell.states) + " states";
  } else if (part != Part::always) {
    text.append(has ? ", as the problem has " : ", as the problem has no ").append(NameOf(part));
  }
  Fail(text + (has ? "; got NULL" : "; got an address"));
}

template <class Given, class Taken>
void Take(const Problem& problem, Part part, const char* name, size_t alignment, Given* given,
          Taken*& taken) {
  CheckPointer(problem, part, name, -1, given, alignment);
  taken = given;
}

// Of weights, a C program gives one array.
template <class Given, class Taken>
void Take(const Problem& problem, Part part, const char* name, size_t alignment, Given* given,
          Taken* (&taken)[kMostWeightArrays]) {
  Take(problem, part, name, alignment, given, taken[0]);
}

template <class Given, class Taken>
void Take(const Problem& problem, Part part, const char* name, size_t alignment,
          Given* const (&given)[JP_MAX_STATES], Taken* (&taken)[kMostStates]) {
  for (int s = 0; s < JP_MAX_STATES; ++s) {
    CheckPointer(problem, part, name, s, given[s], alignment);
    if (s < kMostStates) taken[s] = given[s];
  }
}

}  // namespace

void CheckVersion(const void* given, const char* name, size_t first, size_t known) {
  size_t bytes = 0;
  std::memcpy(&bytes, given, sizeof bytes);
  if (bytes < first || bytes > kMostStructBytes) {
    Fail(std::string(name) + ": expected struct_size to be sizeof(" + name + "), which is " +
         std::to_string(known) + " in version " + std::to_string(JP_VERSION) + "; got " +
         std::to_string(bytes));
  }
  const auto* const begin = static_cast<const unsigned char*>(given);
  if (std::any_of(begin + std::min(known, bytes), begin + bytes,
                  [](unsigned char byte) { return byte != 0; })) {
    Fail(std::string(name) + ": a field is set that this library, of version " +
         std::to_string(JP_VERSION) + ", does not know: expected a later library, or zeros");
  }
}

Problem ProblemOf(const jp_problem& given, jp_pass pass, int64_t packed_lanes) {
  Problem problem;
  problem.pass = Choice(pass, kPasses, "pass", "a JP_PASS_*");
  problem.cell = CellOf(given.cell);
  problem.dtype = Choice(given.dtype, kDTypes, "dtype", "one of floating-point numbers");
  problem.directions = Choice(given.directions, kDirections, "directions", "a JP_DIRECTION_*");
  problem.parts = PartsOf(given.parts, problem.pass);
  const int64_t layers = CheckedSize(given.layers, 1, "layers");
  problem.groups = layers <= INT64_MAX / 2 ? layers * problem.ways() : layers;  // too many anyway
  problem.batch = CheckedSize(given.batch, 1, "batch");
  problem.steps = CheckedSize(given.steps, 1, "steps");
  problem.inputs = CheckedSize(given.inputs, 0, "inputs");
  problem.hidden = CheckedSize(given.hidden, 1, "hidden");
  problem.time_major = given.time_major != 0;
  problem.tf32 = given.tf32 != 0;
  const bool forward = problem.pass == Pass::kForward;
  problem.packed_lanes = forward && given.packed != 0 ? packed_lanes : 0;
  const std::string invalid = Invalid(problem);
  if (!invalid.empty()) Fail(invalid);
  return problem;
}

void CheckAlignment(const void* address, size_t alignment, const char* name) {
  const size_t past = reinterpret_cast<uintptr_t>(address) % alignment;
  if (past == 0) return;
  Fail(std::string(name) + ": expected an address that is a multiple of " +
       std::to_string(alignment) + "; got one that is " + std::to_string(past) + " more");
}

#define JP_PART(part)
#define JP_ALIGN_element JP_ALIGNMENT
#define JP_ALIGN_state JP_ALIGNMENT
#define JP_ALIGN_int32 alignof(int32_t)
#define JP_ALIGN_bool alignof(bool)
#define JP_TAKE(name, type, part) \
  Take(problem, Part::part, #name, JP_ALIGN_##type, given.name, taken.name);
#define JP_OPERAND(pass, name, type, count, dimensions, part) JP_TAKE_##pass(name, type, part)
#define JP_RESULT(pass, name, type, count, dimensions, part) JP_TAKE_##pass(name, type, part)
#define JP_TAKE_tangent(...)

Forward ArraysOf(const Problem& problem, const jp_forward_arrays& given) {
  Forward taken;
#define JP_TAKE_forward(...) JP_TAKE(__VA_ARGS__)
#define JP_TAKE_backward(...)
#include "jax_persistent/problem/operands.def"
#undef JP_TAKE_forward
#undef JP_TAKE_backward
  return taken;
}

Backward ArraysOf(const Problem& problem, const jp_backward_arrays& given) {
  Backward taken;
#define JP_TAKE_forward(...)
#define JP_TAKE_backward(...) JP_TAKE(__VA_ARGS__)
#include "jax_persistent/problem/operands.def"
#undef JP_TAKE_forward
#undef JP_TAKE_backward
  return taken;
}

#undef JP_PART
#undef JP_ALIGN_element
#undef JP_ALIGN_state
#undef JP_ALIGN_int32
#undef JP_ALIGN_bool
#undef JP_TAKE
#undef JP_OPERAND
#undef JP_RESULT
#undef JP_TAKE_tangent

// What operands.def lists is all that the structs have.
template <class Arrays>
constexpr size_t kStructBytes = [] {
  size_t bytes = sizeof(size_t);
  const Arrays none{};
  ForEachOperand(none, [&](const Operand& operand, const auto& /*member*/) {
    const bool per_state = operand.count == OperandCount::kPerState;
    bytes += (per_state ? JP_MAX_STATES : 1) * sizeof(void*);
  });
  return bytes;
}();
static_assert(kStructBytes<Forward> == sizeof(jp_forward_arrays));
static_assert(kStructBytes<Backward> == sizeof(jp_backward_arrays));

jp_dtype DTypeOf(OperandType type, DType element) {
  if (type == OperandType::kInt32) return JP_INT32;
  if (type == OperandType::kBool) return JP_BOOL;
  return static_cast<jp_dtype>(std::find(kDTypes, std::end(kDTypes), element) - kDTypes);
}

size_t BytesOf(const ArrayType& array, DType element) {
  size_t bytes = array.type == OperandType::kInt32  ? sizeof(int32_t)
                 : array.type == OperandType::kBool ? sizeof(bool)
                                                    : ByteWidth(element);
  for (const int64_t size : array.sizes) bytes *= static_cast<size_t>(size);
  return bytes;
}

}  // namespace jp::c
