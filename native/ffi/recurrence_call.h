// A recurrence's operands, results and attributes, decoded: the same for every platform.
//
// forward:  gates_x, recurrent_kernel, [recurrent_bias], lengths, initial..
//           -> outputs, final.., [saved]; a caller that wants no `saved` has no result for it.
// backward: recurrent_kernel, lengths, initial.., outputs, [saved], d_outputs, d_final..
//           -> d_gates_x, [d_product], d_initial..
#pragma once

#include <span>
#include <string_view>

#include "native/cpu/job.h"
#include "native/ffi/decode.h"

namespace jp::ffi {

inline constexpr const char* kForwardTarget = "jax_persistent.forward";
inline constexpr const char* kBackwardTarget = "jax_persistent.backward";

struct Attributes {
  std::string_view cell;  // a name of native/cells
  bool reverse;
  bool time_major;
};

// The element types that a platform's kernels take, as XLA and as the kernels call them.
struct ElementType {
  xffi::DataType type;
  cpu::DType dtype;
};

template <class Arrays>
struct RecurrenceCall {
  cpu::Shape shape;
  CellTraits cell;
  cpu::DType dtype;
  Arrays arrays;
};

// Both leave what is wrong with the call in `decoder`; the result is of no use then.
RecurrenceCall<cpu::Forward> DecodeForward(Decoder& decoder, const Attributes& attributes,
                                           std::span<const ElementType> types, size_t result_count);
RecurrenceCall<cpu::Backward> DecodeBackward(Decoder& decoder, const Attributes& attributes,
                                             std::span<const ElementType> types);

}  // namespace jp::ffi
