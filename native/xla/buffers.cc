// SPDX-License-Identifier: Apache-2.0
// The checks of buffers: quick where all is right, and in words where it is not.
#include "native/xla/buffers.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <type_traits>

namespace jp::ffi {
namespace {

// An operand or a result; nothing past the last one.
std::optional<xffi::AnyBuffer> BufferAt(const xffi::RemainingArgs& operands, size_t index) {
  if (index >= operands.size()) return std::nullopt;
  auto buffer = operands.get<xffi::AnyBuffer>(index);
  return buffer.has_value() ? std::optional(*buffer) : std::nullopt;
}

std::optional<xffi::AnyBuffer> BufferAt(const xffi::RemainingRets& results, size_t index) {
  if (index >= results.size()) return std::nullopt;
  auto buffer = results.get<xffi::AnyBuffer>(index);
  return buffer.has_value() ? std::optional(**buffer) : std::nullopt;
}

xffi::DataType TypeOf(OperandType type, const Problem& problem) {
  if (type == OperandType::kInt32) return xffi::S32;
  if (type == OperandType::kBool) return xffi::PRED;
  switch (type == OperandType::kState ? problem.StateDType() : problem.dtype) {
    case DType::kFloat32: return xffi::F32;
    case DType::kBfloat16: return xffi::BF16;
    case DType::kFloat16: return xffi::F16;
    case DType::kFloat64: return xffi::F64;
  }
  return xffi::DataType::INVALID;
}

template <class Sizes, class Type>
bool HasSizes(const Sizes& got, const Type& type) {
  if (got.size() != type.sizes.size()) return false;
  if (type.or_more) return got[0] >= type.sizes[0];
  return std::equal(got.begin(), got.end(), type.sizes.begin());
}

template <class Buffers, class Types>
bool AllMatch(const Buffers& buffers, const Types& types) {
  if (buffers.size() != types.size()) return false;
  for (size_t i = 0; i < types.size(); ++i) {
    const auto buffer = BufferAt(buffers, i);
    if (!buffer || buffer->element_type() != types[i].type) return false;
    if (!HasSizes(buffer->dimensions(), types[i])) return false;
  }
  return true;
}

template <class Sizes>
void Print(std::ostream& text, xffi::DataType type, const Sizes& sizes) {
  text << type << "[";
  const char* separator = "";
  for (int64_t size : sizes) {
    text << separator << size;
    separator = ", ";
  }
  text << "]";
}

template <class Buffers, class Types>
std::string FirstMismatch(const char* kind, const Buffers& buffers, const Types& types) {
  std::ostringstream text;
  for (size_t i = 0; i < types.size(); ++i) {
    if (i >= buffers.size()) {
      text << "expected " << kind << " " << types[i].name << "; got only " << buffers.size() << " "
           << kind << "s";
      return text.str();
    }
    const auto buffer = BufferAt(buffers, i);
    if (!buffer) return types[i].name + ": expected a buffer";
    if (buffer->element_type() == types[i].type && HasSizes(buffer->dimensions(), types[i])) {
      continue;
    }
    text << types[i].name << ": expected " << (types[i].or_more ? "at least " : "");
    Print(text, types[i].type, types[i].sizes);
    text << "; got ";
    Print(text, buffer->element_type(), buffer->dimensions());
    return text.str();
  }
  if (buffers.size() == types.size()) return {};
  text << "expected " << types.size() << " " << kind << "s; got " << buffers.size();
  return text.str();
}

// Fills in the problem's unknown sizes, as far as buffers of the right rank say them.
template <class Buffers>
void TakeSizes(Problem& problem, const Buffers& buffers, const std::vector<ArrayType>& types) {
  for (size_t i = 0; i < types.size(); ++i) {
    const auto buffer = BufferAt(buffers, i);
    if (!buffer || buffer->dimensions().size() != types[i].sizes.size()) continue;
    for (size_t d = 0; d < types[i].sizes.size(); ++d) {
      const int64_t size = buffer->dimensions()[d];
      const auto take = [&](int64_t& unknown, int times = 1) {
        if (unknown == kUnknownSize) unknown = size * times;
      };
      switch (types[i].dimensions[d]) {
        case 'n': take(problem.groups, problem.ways()); break;
        case 'b': take(problem.batch); break;
        case 't': take(problem.steps); break;
        case 'i': take(problem.inputs); break;
        case 'h': take(problem.hidden); break;
        default: break;  // multiples of H, which other arrays say
      }
    }
  }
}

}  // namespace

BufferTypes::BufferTypes(const Problem& problem, std::optional<int64_t> workspace_bytes) {
  const ArrayTypes types = ArrayTypesOf(problem);
  const auto copy = [&](const std::vector<ArrayType>& from, std::vector<BufferType>& to) {
    for (const ArrayType& array : from) {
      to.push_back({array.name, TypeOf(array.type, problem), array.sizes, false});
    }
  };
  copy(types.operands, operands_);
  copy(types.results, results_);
  if (workspace_bytes) results_.push_back({"workspace", xffi::U8, {*workspace_bytes}, true});
}

bool BufferTypes::Match(const xffi::RemainingArgs& operands,
                        const xffi::RemainingRets& results) const {
  return AllMatch(operands, operands_) && AllMatch(results, results_);
}

std::string BufferTypes::Mismatch(const xffi::RemainingArgs& operands,
                                  const xffi::RemainingRets& results) const {
  const std::string mismatch = FirstMismatch("operand", operands, operands_);
  return mismatch.empty() ? FirstMismatch("result", results, results_) : mismatch;
}

Problem WithSizesOf(Problem problem, const xffi::RemainingArgs& operands,
                    const xffi::RemainingRets& results) {
  const ArrayTypes types = ArrayTypesOf(problem);
  TakeSizes(problem, operands, types.operands);
  TakeSizes(problem, results, types.results);
  return problem;
}

void* TakeWorkspace(const xffi::RemainingRets& results) {
  return BufferAt(results, results.size() - 1)->untyped_data();
}

template <class Arrays>
Arrays TakeArrays(const Problem& problem, const xffi::RemainingArgs& operands,
                  const xffi::RemainingRets& results) {
  Arrays arrays{};
  size_t next_operand = 0, next_result = 0;
  const auto take = [&](bool is_result, auto& pointer) {
    void* const data = is_result ? BufferAt(results, next_result++)->untyped_data()
                                 : BufferAt(operands, next_operand++)->untyped_data();
    pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(data);
  };
  ForEachOperand(arrays, [&](const Operand& operand, auto& member) {
    if (!problem.has(operand.part)) return;
    if constexpr (std::is_array_v<std::remove_reference_t<decltype(member)>>) {
      const int count = CountOf(operand, problem);
      for (int i = 0; i < count; ++i) take(operand.is_result, member[i]);
    } else {
      take(operand.is_result, member);
    }
  });
  return arrays;
}

template Forward TakeArrays(const Problem&, const xffi::RemainingArgs&, const xffi::RemainingRets&);
template Backward TakeArrays(const Problem&, const xffi::RemainingArgs&,
                             const xffi::RemainingRets&);

}  // namespace jp::ffi
