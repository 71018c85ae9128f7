#include "native/ffi/recurrence_call.h"

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

namespace jp::ffi {
namespace {

constexpr const char* kStateNames[] = {"h", "c"};

// What the kernel's and a sequence's types and the attributes say of a call, and the sizes that its
// buffers must then have.
struct Header {
  cpu::Shape shape{};
  CellTraits cell{};
  ElementType element{};

  std::vector<int64_t> sequence(int64_t features) const {
    const cpu::Shape& s = shape;
    return s.time_major ? std::vector{s.groups, s.steps, s.batch, features}
                        : std::vector{s.groups, s.batch, s.steps, features};
  }
  std::vector<int64_t> state() const { return {shape.groups, shape.batch, shape.hidden}; }
  std::vector<int64_t> lengths() const { return {shape.groups, shape.batch}; }
  int64_t columns() const { return cell.gates * shape.hidden; }
  std::vector<int64_t> kernel() const { return {shape.groups, shape.hidden, columns()}; }
  std::vector<int64_t> input_kernel() const { return {shape.groups, shape.inputs, columns()}; }
  std::vector<int64_t> bias() const { return {shape.groups, columns()}; }
};

Header DecodeHeader(Decoder& decoder, const Attributes& attributes,
                    std::span<const ElementType> types, const Decoder::Type& kernel,
                    const Decoder::Type& sequence) {
  Header header;
  const CellTraits* cell = FindCell(attributes.cell);
  if (cell == nullptr) decoder.Fail("cell: got unknown '" + std::string(attributes.cell) + "'");
  const auto element =
      std::ranges::find(types, kernel.element, [](const ElementType& e) { return e.type; });
  if (element == types.end()) {
    std::ostringstream text;
    text << "recurrent_kernel: expected element type ";
    for (size_t i = 0; i < types.size(); ++i) text << (i > 0 ? " or " : "") << types[i].type;
    decoder.Fail(text.str());
  }
  if (!decoder.ok()) return header;
  header.cell = *cell;
  header.element = *element;
  header.shape = {.groups = sequence.sizes[0],
                  .batch = sequence.sizes[attributes.time_major ? 2 : 1],
                  .steps = sequence.sizes[attributes.time_major ? 1 : 2],
                  .hidden = kernel.sizes[1],
                  .reverse = attributes.reverse,
                  .time_major = attributes.time_major};
  return header;
}

}  // namespace

RecurrenceCall<cpu::Forward> DecodeForward(Decoder& decoder, const Attributes& attributes,
                                           Given given, std::span<const ElementType> types,
                                           size_t result_count) {
  const bool inputs = given == Given::kInputs;
  const Decoder::Type sequence = decoder.Peek(0, inputs ? "x" : "gates_x", 4);
  const Decoder::Type kernel = decoder.Peek(inputs ? 3 : 1, "recurrent_kernel", 3);
  Header header = DecodeHeader(decoder, attributes, types, kernel, sequence);
  if (!decoder.ok()) return {};
  if (inputs) header.shape.inputs = sequence.sizes[3];
  const int states = header.cell.states;

  cpu::Forward a{};
  if (inputs) {
    a.x = decoder.Operand("x", header.element.type, header.sequence(header.shape.inputs));
    a.input_kernel = decoder.Operand("input_kernel", header.element.type, header.input_kernel());
    a.bias = decoder.Operand("bias", header.element.type, header.bias());
  } else {
    a.gates_x = decoder.Operand("gates_x", header.element.type, header.sequence(header.columns()));
  }
  a.recurrent_kernel = decoder.Operand("recurrent_kernel", header.element.type, header.kernel());
  if (header.cell.separate_product) {
    a.recurrent_bias = decoder.Operand("recurrent_bias", header.element.type, header.bias());
  }
  a.lengths = static_cast<const int32_t*>(decoder.Operand("lengths", xffi::S32, header.lengths()));
  for (int s = 0; s < states; ++s) {
    a.initial[s] = decoder.Operand(kStateNames[s], header.element.type, header.state());
  }
  a.outputs = decoder.Result("outputs", header.element.type, header.sequence(header.shape.hidden));
  for (int s = 0; s < states; ++s) {
    a.final[s] = decoder.Result(kStateNames[s], header.element.type, header.state());
  }
  if (header.cell.saved > 0 && result_count > static_cast<size_t>(1 + states)) {
    a.saved = decoder.Result("saved", header.element.type,
                             header.sequence(header.cell.saved * header.shape.hidden));
  }
  decoder.Finish();
  return {header.shape, header.cell, header.element.dtype, a};
}

RecurrenceCall<cpu::Backward> DecodeBackward(Decoder& decoder, const Attributes& attributes,
                                             BackwardForm form,
                                             std::span<const ElementType> types) {
  const CellTraits* known = FindCell(attributes.cell);
  const size_t kernel_at = size_t{form.d_weights} + size_t{form.d_x};
  const Decoder::Type kernel = decoder.Peek(kernel_at, "recurrent_kernel", 3);
  const Decoder::Type sequence =
      decoder.Peek(kernel_at + 2 + (known ? known->states : 0), "outputs", 4);
  Header header = DecodeHeader(decoder, attributes, types, kernel, sequence);
  if (form.d_weights) {
    const Decoder::Type x = decoder.Peek(0, "x", 4);
    if (decoder.ok()) header.shape.inputs = x.sizes[3];
  } else if (form.d_x) {
    const Decoder::Type input_kernel = decoder.Peek(0, "input_kernel", 3);
    if (decoder.ok()) header.shape.inputs = input_kernel.sizes[1];
  }
  if (!decoder.ok()) return {};
  const int states = header.cell.states;
  const std::vector<int64_t> of_hidden = header.sequence(header.shape.hidden);

  cpu::Backward a{};
  if (form.d_weights) {
    a.x = decoder.Operand("x", header.element.type, header.sequence(header.shape.inputs));
  }
  if (form.d_x) {
    a.input_kernel = decoder.Operand("input_kernel", header.element.type, header.input_kernel());
  }
  a.recurrent_kernel = decoder.Operand("recurrent_kernel", header.element.type, header.kernel());
  a.lengths = static_cast<const int32_t*>(decoder.Operand("lengths", xffi::S32, header.lengths()));
  for (int s = 0; s < states; ++s) {
    a.initial[s] = decoder.Operand(kStateNames[s], header.element.type, header.state());
  }
  a.outputs = decoder.Operand("outputs", header.element.type, of_hidden);
  if (header.cell.saved > 0) {
    a.saved = decoder.Operand("saved", header.element.type,
                              header.sequence(header.cell.saved * header.shape.hidden));
  }
  a.d_outputs = decoder.Operand("d_outputs", header.element.type, of_hidden);
  for (int s = 0; s < states; ++s) {
    a.d_final[s] = decoder.Operand(kStateNames[s], header.element.type, header.state());
  }
  const auto result = [&](const char* name, const std::vector<int64_t>& sizes) {
    return decoder.Result(name, header.element.type, sizes);
  };
  const bool separate = header.cell.separate_product;
  if (form.d_x) a.d_x = result("d_x", header.sequence(header.shape.inputs));
  if (form.d_weights) {
    a.d_input_kernel = result("d_input_kernel", header.input_kernel());
    a.d_bias = result("d_bias", header.bias());
    a.d_recurrent_kernel = result("d_recurrent_kernel", header.kernel());
    if (separate) a.d_recurrent_bias = result("d_recurrent_bias", header.bias());
  } else {
    a.d_gates_x = result("d_gates_x", header.sequence(header.columns()));
    if (separate) a.d_product = result("d_product", header.sequence(header.columns()));
  }
  for (int s = 0; s < states; ++s) {
    a.d_initial[s] = decoder.Result(kStateNames[s], header.element.type, header.state());
  }
  decoder.Finish();
  return {header.shape, header.cell, header.element.dtype, a};
}

}  // namespace jp::ffi
