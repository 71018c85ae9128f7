// SPDX-License-Identifier: Apache-2.0
// What the stages of all handlers do alike: report an exception, and hand a pool of threads on.
#pragma once

#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "native/backend.h"
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

// `pool` must outlive what is returned.
inline Resources OnPool(::xla::ffi::ThreadPool& pool) {
  Resources resources;
  resources.threads = static_cast<int>(pool.num_threads());
  resources.schedule = [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); };
  return resources;
}

}  // namespace jp::ffi
