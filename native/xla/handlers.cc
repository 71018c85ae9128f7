// SPDX-License-Identifier: Apache-2.0
// The handlers: plan and compile when XLA instantiates an executable, load on a device when it
// initializes one, and run when it executes. The last allocates nothing; on a stream it only
// enqueues.
//
// XLA holds plain functions, so that each backend has its own instances of the templates here.
// GPU calls are not marked as compatible with command buffers: whether a cooperative launch can be
// captured has not been tried.
#include "native/xla/handlers.h"

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "native/backends.h"
#include "native/xla/buffers.h"
#include "native/xla/planned_calls.h"
#include "native/xla/stage.h"

namespace jp::ffi {
namespace {

// What the instantiate stage hands to the execute stage. XLA sets the id; it has one registry of
// types for each platform, so that each platform needs a type of its own.
template <size_t kBackend>
struct State {
  static inline xffi::TypeId id = XLA_FFI_UNKNOWN_TYPE_ID;
  PlannedCalls calls;
};

template <Pass kPass>
using ArraysOf = std::conditional_t<kPass == Pass::kForward, Forward, Backward>;

Attributes ReadAttributes(const xffi::Dictionary& dictionary) {
  Attributes attributes;
  for (auto it = dictionary.begin(); it != dictionary.end(); ++it) {
    const std::string name(*it);
    if (dictionary.isa<bool>(it)) {
      attributes[name] = *dictionary.get<bool>(*it);
    } else if (dictionary.isa<int64_t>(it)) {
      attributes[name] = *dictionary.get<int64_t>(*it);
    } else if (dictionary.isa<std::string_view>(it)) {
      attributes[name] = std::string(*dictionary.get<std::string_view>(*it));
    } else {
      throw std::invalid_argument(name + ": expected a string, a boolean or a 64-bit integer");
    }
  }
  return attributes;
}

template <size_t kBackend, Pass kPass>
xffi::ErrorOr<std::unique_ptr<State<kBackend>>> Instantiate(xffi::Dictionary attributes) {
  try {
    const Backend& backend = *Backends()[kBackend];
    return std::unique_ptr<State<kBackend>>(
        new State<kBackend>{{backend, ParseProblem(kPass, ReadAttributes(attributes))}});
  } catch (...) {
    return xffi::Unexpected(CurrentError(TargetOf(kPass)));
  }
}

// The call that these buffers are for. Throws std::exception.
const PlannedCall& CheckedCall(PlannedCalls& calls, const xffi::RemainingArgs& operands,
                               const xffi::RemainingRets& results, const Resources& resources) {
  const PlannedCall& call = calls.Find(operands, results, resources);
  if (!call.refusal.empty()) throw std::invalid_argument(call.refusal);
  if (!call.buffers.Match(operands, results)) {
    throw std::invalid_argument(call.buffers.Mismatch(operands, results));
  }
  return call;
}

template <Pass kPass>
xffi::Error Initialize(PlannedCalls& calls, const xffi::RemainingArgs& operands,
                       const xffi::RemainingRets& results, const Resources& resources) {
  return Guarded(TargetOf(kPass), [&] {
    const PlannedCall& call = CheckedCall(calls, operands, results, resources);
    calls.backend().Load(*call.plan, resources);
  });
}

template <Pass kPass>
xffi::Error Execute(PlannedCalls& calls, const xffi::RemainingArgs& operands,
                    const xffi::RemainingRets& results, const Resources& resources) {
  return Guarded(TargetOf(kPass), [&] {
    const PlannedCall& call = CheckedCall(calls, operands, results, resources);
    const bool has_workspace = calls.backend().KindOfExecutor() == Executor::kStream;
    void* const workspace = has_workspace ? TakeWorkspace(results) : nullptr;
    if (!has_workspace) UseHugePages(results);
    const auto arrays = TakeArrays<ArraysOf<kPass>>(call.problem, operands, results);
    const std::string error = calls.backend().Run(*call.plan, arrays, workspace, resources);
    if (!error.empty()) throw std::runtime_error(error);
  });
}

template <size_t kBackend, Pass kPass>
xffi::Error ExecuteOnPool(State<kBackend>* state, xffi::RemainingArgs operands,
                          xffi::RemainingRets results, xffi::ThreadPool pool) {
  return Execute<kPass>(state->calls, operands, results, OnPool(pool));
}

// Before every execution, and before any of the program's devices executes.
template <size_t kBackend, Pass kPass>
xffi::Error InitializeOnStream(State<kBackend>* state, xffi::RemainingArgs operands,
                               xffi::RemainingRets results, void* stream, int32_t device) {
  return Initialize<kPass>(state->calls, operands, results, OnStream(stream, device));
}

template <size_t kBackend, Pass kPass>
xffi::Error ExecuteOnStream(State<kBackend>* state, xffi::RemainingArgs operands,
                            xffi::RemainingRets results, void* stream, int32_t device) {
  return Execute<kPass>(state->calls, operands, results, OnStream(stream, device));
}

template <size_t kBackend, Pass kPass>
XLA_FFI_Error* CallInstantiate(XLA_FFI_CallFrame* frame) {
  const std::string name =
      "jax_persistent.planned_calls." + std::string(Backends()[kBackend]->Platform());
  if (XLA_FFI_Error* error = RegisterState<State<kBackend>>(frame, name)) return error;
  static const auto* const handler = xffi::Ffi::BindInstantiate()
                                         .Attrs<xffi::Dictionary>()
                                         .To(Instantiate<kBackend, kPass>)
                                         .release();
  return handler->Call(frame);
}

template <size_t kBackend, Pass kPass>
XLA_FFI_Error* CallExecuteOnPool(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Ctx<xffi::State<State<kBackend>>>()
                                         .RemainingArgs()
                                         .RemainingRets()
                                         .template Ctx<xffi::ThreadPool>()
                                         .To(ExecuteOnPool<kBackend, kPass>)
                                         .release();
  return handler->Call(frame);
}

template <size_t kBackend, Pass kPass>
XLA_FFI_Error* CallExecuteOnStream(XLA_FFI_CallFrame* frame) {
  static const auto* const handler =
      BindOnStream<State<kBackend>>(xffi::Ffi::BindExecute(), ExecuteOnStream<kBackend, kPass>);
  return handler->Call(frame);
}

template <size_t kBackend, Pass kPass>
XLA_FFI_Error* CallInitializeOnStream(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = BindOnStream<State<kBackend>>(
      xffi::Ffi::BindInitialize(), InitializeOnStream<kBackend, kPass>);
  return handler->Call(frame);
}

template <size_t kBackend, Pass kPass>
Stages StagesOfBackend() {
  const bool pool = Backends()[kBackend]->KindOfExecutor() == Executor::kThreadPool;
  return {CallInstantiate<kBackend, kPass>,
          pool ? nullptr : CallInitializeOnStream<kBackend, kPass>,
          pool ? CallExecuteOnPool<kBackend, kPass> : CallExecuteOnStream<kBackend, kPass>};
}

}  // namespace

Stages StagesOf(size_t backend, Pass pass) {
  return ForBackend(backend, [pass]<size_t kBackend>() {
    return pass == Pass::kForward ? StagesOfBackend<kBackend, Pass::kForward>()
                                  : StagesOfBackend<kBackend, Pass::kBackward>();
  });
}

}  // namespace jp::ffi
