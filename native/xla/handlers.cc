// The FFI handlers of the CPU kernels: decode, run, and report.
#include "native/ffi/cpu_handlers.h"

#include <exception>
#include <functional>
#include <new>
#include <string>

#include "native/cpu/recurrence.h"
#include "native/ffi/recurrence_call.h"

namespace jp::ffi {
namespace {

constexpr ElementType kTypes[] = {{xffi::F32, cpu::DType::kFloat32},
                                  {xffi::BF16, cpu::DType::kBfloat16}};

cpu::Team::Schedule On(xffi::ThreadPool& pool) {
  return [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
}

// Runs the kernel and turns what it throws into an error: nothing may unwind into XLA.
template <class Arrays>
xffi::Error Run(const char* target, const Decoder& decoder, const RecurrenceCall<Arrays>& call,
                xffi::ThreadPool& pool) {
  if (!decoder.ok()) return decoder.error();
  try {
    cpu::Run(call.shape, call.cell, call.dtype, call.arrays, static_cast<int>(pool.num_threads()),
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
  Decoder decoder(kForwardTarget, operands, results);
  const auto call =
      DecodeForward(decoder, {cell, reverse, time_major}, Given::kInputs, kTypes, results.size());
  return Run(kForwardTarget, decoder, call, pool);
}

xffi::Error RunBackward(std::string_view cell, bool reverse, bool time_major, bool d_x,
                        bool d_weights, xffi::RemainingArgs operands, xffi::RemainingRets results,
                        xffi::ThreadPool pool) {
  Decoder decoder(kBackwardTarget, operands, results);
  const auto call = DecodeBackward(decoder, {cell, reverse, time_major}, {d_x, d_weights}, kTypes);
  return Run(kBackwardTarget, decoder, call, pool);
}

auto Bound() {
  return xffi::Ffi::Bind().Attr<std::string_view>("cell").Attr<bool>("reverse").Attr<bool>(
      "time_major");
}

template <class Bound>
auto Buffers(Bound bound) {
  return std::move(bound).RemainingArgs().RemainingRets().template Ctx<xffi::ThreadPool>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CpuForward, RunForward, Buffers(Bound()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(CpuBackward, RunBackward,
                              Buffers(Bound().Attr<bool>("d_x").Attr<bool>("d_weights")));

}  // namespace jp::ffi
