// SPDX-License-Identifier: Apache-2.0
// What the stages of all handlers do alike: report an exception, and hand on what a call runs on.
#pragma once

#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/backend.h"
#include "native/huge_pages.h"
#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

// The error that an exception stands for; to be called where one is handled.
inline ::xla::ffi::Error CurrentError(const char* target_name) {
  using ::xla::ffi::ErrorCode;
  const std::string target = std::string(target_name) + ": ";
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kResourceExhausted, target + "out of memory"};
  } catch (const std::invalid_argument& error) {
    return {ErrorCode::kInvalidArgument, target + error.what()};
  } catch (const std::exception& error) {
    return {ErrorCode::kInternal, target + error.what()};
  }
}

// What a stage returns that does `work`: its error if that throws, as nothing may unwind into XLA.
template <class Work>
::xla::ffi::Error Guarded(const char* target_name, const Work& work) {
  try {
    work();
  } catch (...) {
    return CurrentError(target_name);
  }
  return ::xla::ffi::Error::Success();
}

// `pool` must outlive what is returned.
inline Resources OnPool(::xla::ffi::ThreadPool& pool) {
  Resources resources;
  resources.threads = static_cast<int>(pool.num_threads());
  resources.schedule = [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
  return resources;
}

// For results in a processor's memory. May throw std::bad_alloc.
inline void UseHugePages(const ::xla::ffi::RemainingRets& results) {
  std::vector<Memory> written;
  written.reserve(results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<::xla::ffi::AnyBuffer>(i);
    if (result.has_error()) continue;
    written.push_back({static_cast<char*>((*result)->untyped_data()), (*result)->size_bytes()});
  }
  jp::UseHugePages(std::move(written));
}

constexpr size_t kMostBackends = 4;

// `function` of a backend's number in Backends(), as a constant: XLA holds plain functions.
template <class Function, size_t kBackend = 0>
auto ForBackend(size_t backend, const Function& function) {
  if constexpr (kBackend + 1 < kMostBackends) {
    if (backend != kBackend) return ForBackend<Function, kBackend + 1>(backend, function);
  }
  if (backend != kBackend) throw std::logic_error("more backends than kMostBackends");
  return function.template operator()<kBackend>();
}

inline Resources OnStream(void* stream, int32_t device) {
  Resources resources;
  resources.stream = stream;
  resources.device = device;
  return resources;
}

// Registers the type of a state with XLA, which must know it before it knows a handler that makes
// one. jax can be told of types, too, but as long as it has not started a platform, it only keeps
// what it is told, and then hands over the handlers first. Has XLA's question for a handler's
// metadata answered, which is the first that it asks.
template <class State>
XLA_FFI_Error* RegisterState(const XLA_FFI_CallFrame* frame, const std::string& name) {
  const bool asks_for_metadata = frame->extension_start != nullptr &&
                                 frame->extension_start->type == XLA_FFI_Extension_Metadata;
  if (!asks_for_metadata || State::id != XLA_FFI_UNKNOWN_TYPE_ID) return nullptr;
  static const XLA_FFI_TypeInfo info = ::xla::ffi::MakeTypeInfo<State>();
  return ::xla::ffi::Ffi::RegisterTypeId(frame->api, name, &State::id, &info);
}

// What a stage on a stream is given, the same at each: the state, operands, results, the stream and
// the device.
template <class State, class Binding, class Function>
const auto* BindOnStream(Binding binding, const Function& function) {
  return std::move(binding)
      .template Ctx<::xla::ffi::State<State>>()
      .RemainingArgs()
      .RemainingRets()
      .template Ctx<::xla::ffi::PlatformStream<void*>>()
      .template Ctx<::xla::ffi::DeviceOrdinal>()
      .To(function)
      .release();
}

}  // namespace jp::ffi
