// Decodes buffers and attributes for the CPU kernels, and nothing else.
//
// forward:  gates_x, recurrent_kernel, [recurrent_bias], lengths, initial..
//           -> outputs, final.., [saved]; a caller that wants no `saved` has no result for it.
// backward: recurrent_kernel, lengths, initial.., outputs, [saved], d_outputs, d_final..
//           -> d_gates_x, [d_product], d_initial..
// Attributes: cell (a name of native/cells), reverse, time_major.
#include "native/ffi/cpu_handlers.h"

#include <exception>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "native/cpu/recurrence.h"
#include "native/ffi/decode.h"

namespace jp::ffi {
namespace {

constexpr const char* kStateNames[] = {"h", "c"};

struct Attributes {
  std::string_view cell;
  bool reverse;
  bool time_major;
};

// What the kernel's and a sequence's types and the attributes say of a call, and the sizes that its
// buffers must then have.
struct Header {
  cpu::Shape shape{};
  CellTraits cell{};
  cpu::DType dtype{};
  xffi::DataType type{};

  std::vector<int64_t> sequence(int64_t features) const {
    const cpu::Shape& s = shape;
    return s.time_major ? std::vector{s.groups, s.steps, s.batch, features}
                        : std::vector{s.groups, s.batch, s.steps, features};
  }
  std::vector<int64_t> state() const { return {shape.groups, shape.batch, shape.hidden}; }
  std::vector<int64_t> lengths() const { return {shape.groups, shape.batch}; }
  int64_t columns() const { return cell.gates * shape.hidden; }
  std::vector<int64_t> kernel() const { return {shape.groups, shape.hidden, columns()}; }
  std::vector<int64_t> bias() const { return {shape.groups, columns()}; }
};

Header DecodeHeader(Decoder& decoder, const Attributes& attributes, const Decoder::Type& kernel,
                    const Decoder::Type& sequence) {
  Header header;
  const CellTraits* cell = FindCell(attributes.cell);
  if (cell == nullptr) decoder.Fail("cell: got unknown '" + std::string(attributes.cell) + "'");
  if (kernel.element != xffi::F32 && kernel.element != xffi::BF16) {
    decoder.Fail("recurrent_kernel: expected element type F32 or BF16");
  }
  if (!decoder.ok()) return header;
  header.cell = *cell;
  header.type = kernel.element;
  header.dtype = kernel.element == xffi::F32 ? cpu::DType::kFloat32 : cpu::DType::kBfloat16;
  header.shape = {.groups = sequence.sizes[0],
                  .batch = sequence.sizes[attributes.time_major ? 2 : 1],
                  .steps = sequence.sizes[attributes.time_major ? 1 : 2],
                  .hidden = kernel.sizes[1],
                  .reverse = attributes.reverse,
                  .time_major = attributes.time_major};
  return header;
}

cpu::Team::Schedule On(xffi::ThreadPool& pool) {
  return [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
}

// Runs the kernel and turns what it throws into an error: nothing may unwind into XLA.
template <class Arrays>
xffi::Error Run(const char* target, const Header& header, const Arrays& arrays,
                xffi::ThreadPool& pool) {
  try {
    cpu::Run(header.shape, header.cell, header.dtype, arrays, static_cast<int>(pool.num_threads()),
             On(pool));
  } catch (const std::bad_alloc&) {
    return {xffi::ErrorCode::kResourceExhausted, std::string(target) + ": out of memory"};
  } catch (const std::exception& error) {
    return {xffi::ErrorCode::kInternal, std::string(target) + ": " + error.what()};
  }
  return xffi::Error::Success();
}

xffi::Error RunForward(std::string_view cell, bool reverse, bool time_major,
                       xffi::RemainingArgs operands, xffi::RemainingRets results,
                       xffi::ThreadPool pool) {
  constexpr const char* kTarget = "jax_persistent.forward";
  Decoder decoder(kTarget, operands, results);
  const Decoder::Type sequence = decoder.Peek(0, "gates_x", 4);
  const Decoder::Type kernel = decoder.Peek(1, "recurrent_kernel", 3);
  const Header header = DecodeHeader(decoder, {cell, reverse, time_major}, kernel, sequence);
  if (!decoder.ok()) return decoder.error();
  const int states = header.cell.states;

  cpu::Forward a{};
  a.gates_x = decoder.Operand("gates_x", header.type, header.sequence(header.columns()));
  a.recurrent_kernel = decoder.Operand("recurrent_kernel", header.type, header.kernel());
  if (header.cell.separate_product) {
    a.recurrent_bias = decoder.Operand("recurrent_bias", header.type, header.bias());
  }
  a.lengths = static_cast<const int32_t*>(decoder.Operand("lengths", xffi::S32, header.lengths()));
  for (int s = 0; s < states; ++s) {
    a.initial[s] = decoder.Operand(kStateNames[s], header.type, header.state());
  }
  a.outputs = decoder.Result("outputs", header.type, header.sequence(header.shape.hidden));
  for (int s = 0; s < states; ++s) {
    a.final[s] = decoder.Result(kStateNames[s], header.type, header.state());
  }
  if (header.cell.saved > 0 && results.size() > static_cast<size_t>(1 + states)) {
    a.saved = decoder.Result("saved", header.type,
                             header.sequence(header.cell.saved * header.shape.hidden));
  }
  decoder.Finish();
  if (!decoder.ok()) return decoder.error();
  return Run(kTarget, header, a, pool);
}

xffi::Error RunBackward(std::string_view cell, bool reverse, bool time_major,
                        xffi::RemainingArgs operands, xffi::RemainingRets results,
                        xffi::ThreadPool pool) {
  constexpr const char* kTarget = "jax_persistent.backward";
  Decoder decoder(kTarget, operands, results);
  const CellTraits* known = FindCell(cell);
  const Decoder::Type kernel = decoder.Peek(0, "recurrent_kernel", 3);
  const Decoder::Type sequence = decoder.Peek(2 + (known ? known->states : 0), "outputs", 4);
  const Header header = DecodeHeader(decoder, {cell, reverse, time_major}, kernel, sequence);
  if (!decoder.ok()) return decoder.error();
  const int states = header.cell.states;
  const std::vector<int64_t> of_hidden = header.sequence(header.shape.hidden);

  cpu::Backward a{};
  a.recurrent_kernel = decoder.Operand("recurrent_kernel", header.type, header.kernel());
  a.lengths = static_cast<const int32_t*>(decoder.Operand("lengths", xffi::S32, header.lengths()));
  for (int s = 0; s < states; ++s) {
    a.initial[s] = decoder.Operand(kStateNames[s], header.type, header.state());
  }
  a.outputs = decoder.Operand("outputs", header.type, of_hidden);
  if (header.cell.saved > 0) {
    a.saved = decoder.Operand("saved", header.type,
                              header.sequence(header.cell.saved * header.shape.hidden));
  }
  a.d_outputs = decoder.Operand("d_outputs", header.type, of_hidden);
  for (int s = 0; s < states; ++s) {
    a.d_final[s] = decoder.Operand(kStateNames[s], header.type, header.state());
  }
  a.d_gates_x = decoder.Result("d_gates_x", header.type, header.sequence(header.columns()));
  if (header.cell.separate_product) {
    a.d_product = decoder.Result("d_product", header.type, header.sequence(header.columns()));
  }
  for (int s = 0; s < states; ++s) {
    a.d_initial[s] = decoder.Result(kStateNames[s], header.type, header.state());
  }
  decoder.Finish();
  if (!decoder.ok()) return decoder.error();
  return Run(kTarget, header, a, pool);
}

auto Binding() {
  return xffi::Ffi::Bind()
      .Attr<std::string_view>("cell")
      .Attr<bool>("reverse")
      .Attr<bool>("time_major")
      .RemainingArgs()
      .RemainingRets()
      .Ctx<xffi::ThreadPool>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CpuForward, RunForward, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(CpuBackward, RunBackward, Binding());

}  // namespace jp::ffi
