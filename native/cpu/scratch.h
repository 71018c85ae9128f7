// SPDX-License-Identifier: Apache-2.0
// Aligned memory for workspaces, kept from call to call: a fresh mapping costs a page fault every
// 4 KiB.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <utility>

namespace jp::cpu {

class Scratch {
 public:
  // Throws std::bad_alloc. The contents are unspecified.
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(Scratch&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Scratch& operator=(Scratch&&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace jp::cpu
