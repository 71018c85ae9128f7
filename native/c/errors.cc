// SPDX-License-Identifier: Apache-2.0
// The text of each thread's last error, which takes no memory: there may be none.
#include "native/c/errors.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

namespace jp::c {
namespace {

thread_local char last_error[1 << 12];

jp_status Keep(jp_status status, std::string_view text) noexcept {
  const size_t length = std::min(text.size(), sizeof last_error - 1);
  std::memcpy(last_error, text.data(), length);
  last_error[length] = '\0';
  return status;
}

}  // namespace

jp_status Report() noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    return Keep(failure.status(), failure.what());
  } catch (const std::bad_alloc&) {
    return Keep(JP_OUT_OF_MEMORY, "out of memory");
  } catch (const std::invalid_argument& error) {
    return Keep(JP_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return Keep(JP_FAILED, error.what());
  } catch (...) {
    return Keep(JP_FAILED, "an unknown exception");
  }
}

const char* LastError() noexcept { return last_error; }

}  // namespace jp::c
