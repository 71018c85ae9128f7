// A recurrence's operands, results and attributes, decoded. What a platform's kernels are given of
// the inputs is theirs to say: x itself, or what XLA has made of it.
//
// forward:  x, input_kernel, bias | gates_x; recurrent_kernel, [recurrent_bias], lengths, initial..
//           -> outputs, final.., [saved]; a caller that wants no `saved` has no result for it.
// backward: [x], [input_kernel], recurrent_kernel, lengths, initial.., outputs, [saved], d_outputs,
//           d_final.. -> [d_x], d_gates_x, [d_product], d_initial..
//           or, if x is given, [d_x], d_input_kernel, d_bias, d_recurrent_kernel,
//           [d_recurrent_bias], d_initial.. Only kernels that are given inputs take x and
//           input_kernel; the latter if d_x is wanted.
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

enum class Given { kInputs, kProjectedInputs };

// What a backward call wants besides the recurrence: attributes of the platforms that can do it.
struct BackwardForm {
  bool d_x = false;
  bool d_weights = false;
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
                                           Given given, std::span<const ElementType> types,
                                           size_t result_count);
RecurrenceCall<cpu::Backward> DecodeBackward(Decoder& decoder, const Attributes& attributes,
                                             BackwardForm form, std::span<const ElementType> types);

}  // namespace jp::ffi
