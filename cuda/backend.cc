// The FFI handlers of the GPU kernels: decode, plan, enqueue on XLA's stream, and report.
//
// Not marked as compatible with command buffers: scratch memory comes from XLA at every call, and
// whether a cooperative launch can be captured has not been tried on a GPU.
//
// Attributes besides those of every platform: tf32, whether float32 products may be rounded to it;
// exchange, how blocks are to exchange messages: "grid", "grid-barrier", "cluster", or "" for the
// planner's choice.
#include "native/ffi/gpu_handlers.h"

#include <exception>
#include <limits>
#include <string>

#include "cuda/device.h"
#include "native/ffi/recurrence_call.h"

namespace jp::ffi {
namespace {

constexpr ElementType kTypes[] = {{xffi::F32, cpu::DType::kFloat32},
                                  {xffi::BF16, cpu::DType::kBfloat16},
                                  {xffi::F16, cpu::DType::kFloat16}};

constexpr uint64_t kPatience = 20'000'000'000;  // nanoseconds; under a debugger steps take seconds

Precision NumberOf(cpu::DType dtype, bool tf32) {
  switch (dtype) {
    case cpu::DType::kBfloat16: return Precision::kBfloat16;
    case cpu::DType::kFloat16: return Precision::kFloat16;
    case cpu::DType::kFloat32: break;
  }
  return tf32 ? Precision::kTf32 : Precision::kFloat32;
}

xffi::Error Invalid(const char* target, const std::string& what) {
  return {xffi::ErrorCode::kInvalidArgument, std::string(target) + ": " + what};
}

template <class Arrays>
xffi::Error Enqueue(const char* target, const Decoder& decoder, const RecurrenceCall<Arrays>& call,
                    bool tf32, std::string_view exchange, xffi::ScratchAllocator& scratch,
                    void* stream) {
  if (!decoder.ok()) return decoder.error();
  const auto residency = ResidencyOf(exchange);
  if (!residency) return Invalid(target, "exchange: got unknown '" + std::string(exchange) + "'");
  const cpu::Shape& s = call.shape;
  for (int64_t size : {s.groups * s.batch, s.steps, s.hidden * call.cell.gates * s.groups}) {
    if (size > std::numeric_limits<int>::max() / 8) {
      return Invalid(target,
                     "sizes: expected N*B, T and N*G*H below 2^28; got " + std::to_string(size));
    }
  }
  try {
    const GpuProblem problem{
        call.cell, !cuda::kIsForward<Arrays>, NumberOf(call.dtype, tf32), s.groups, s.batch,
        s.hidden};
    const KernelPlan plan = PlanKernel(problem, cuda::ThisGpu(), *residency);
    if (!plan.runs) return Invalid(target, plan.explanation);
    const auto signal = exchange == "grid-barrier" ? cuda::Signal::kBarrier : cuda::Signal::kData;
    const cuda::Call<Arrays> made{s,    call.cell, problem.number, call.arrays,
                                  plan, signal,    kPatience};
    const std::string error = cuda::Enqueue(made, stream, [&](int64_t bytes) {
      return scratch.Allocate(static_cast<size_t>(bytes), 256).value_or(nullptr);
    });
    if (error.empty()) return xffi::Error::Success();
    return {xffi::ErrorCode::kInternal, std::string(target) + ": " + error};
  } catch (const std::exception& error) {
    return {xffi::ErrorCode::kInternal, std::string(target) + ": " + error.what()};
  }
}

xffi::Error RunForward(std::string_view cell, bool reverse, bool time_major, bool tf32,
                       std::string_view exchange, xffi::RemainingArgs operands,
                       xffi::RemainingRets results, xffi::ScratchAllocator scratch, void* stream) {
  Decoder decoder(kForwardTarget, operands, results);
  const auto call = DecodeForward(decoder, {cell, reverse, time_major}, Given::kProjectedInputs,
                                  kTypes, results.size());
  return Enqueue(kForwardTarget, decoder, call, tf32, exchange, scratch, stream);
}

xffi::Error RunBackward(std::string_view cell, bool reverse, bool time_major, bool tf32,
                        std::string_view exchange, xffi::RemainingArgs operands,
                        xffi::RemainingRets results, xffi::ScratchAllocator scratch, void* stream) {
  Decoder decoder(kBackwardTarget, operands, results);
  const auto call = DecodeBackward(decoder, {cell, reverse, time_major}, {}, kTypes);
  return Enqueue(kBackwardTarget, decoder, call, tf32, exchange, scratch, stream);
}

auto Binding() {
  return xffi::Ffi::Bind()
      .Attr<std::string_view>("cell")
      .Attr<bool>("reverse")
      .Attr<bool>("time_major")
      .Attr<bool>("tf32")
      .Attr<std::string_view>("exchange")
      .RemainingArgs()
      .RemainingRets()
      .Ctx<xffi::ScratchAllocator>()
      .Ctx<xffi::PlatformStream<void*>>();
}

}  // namespace

DeviceFacts FactsOfGpu(int ordinal) { return cuda::GpuOfOrdinal(ordinal); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpuForward, RunForward, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(GpuBackward, RunBackward, Binding());

}  // namespace jp::ffi
