// SPDX-License-Identifier: Apache-2.0
// Libraries that are opened at run time, as a machine may not have them.
#pragma once

#include <initializer_list>
#include <string>

namespace jp::cuda {

class Library {
 public:
  Library() = default;

  // Opens the first of `names` that there is, a path or a name for the loader to look for. Throws
  // std::runtime_error that says what was tried.
  explicit Library(std::initializer_list<std::string> names);

  // Sets `function` to the one of that name. Throws std::runtime_error if the library has none.
  template <class Function>
  void Find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(Symbol(name));
  }

  const std::string& name() const { return name_; }

 private:
  void* Symbol(const char* name) const;

  void* handle_ = nullptr;  // never closed: its threads and atexit handlers may outlive us
  std::string name_;
};

}  // namespace jp::cuda
