// SPDX-License-Identifier: Apache-2.0
// What a function of the C interface does about exceptions: a status, and a text for the thread.
#pragma once

#include <stdexcept>
#include <string>

#include "native/c/jax_persistent.h"

namespace jp::c {

// What is thrown where the status is not the one of the exception's type: std::invalid_argument is
// JP_INVALID_ARGUMENT, std::bad_alloc JP_OUT_OF_MEMORY, and any other JP_FAILED.
class Failure : public std::runtime_error {
 public:
  Failure(jp_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  jp_status status() const { return status_; }

 private:
  jp_status status_;
};

// Keeps the text of the exception that is being handled. Returns its status.
jp_status Report() noexcept;

const char* LastError() noexcept;

// Runs the body of a function of the interface.
template <class Body>
jp_status Guarded(const Body& body) noexcept {
  try {
    body();
    return JP_OK;
  } catch (...) {
    return Report();
  }
}

// Both throw std::invalid_argument.
inline void CheckNotNull(const void* pointer, const char* name) {
  if (pointer != nullptr) return;
  throw std::invalid_argument(std::string(name) + ": expected a pointer; got NULL");
}
template <class T>
T& NotNull(T* pointer, const char* name) {
  CheckNotNull(pointer, name);
  return *pointer;
}

}  // namespace jp::c
