// SPDX-License-Identifier: Apache-2.0
// dlopen and dlsym, with errors in words.
#include "cuda/library.h"

#include <dlfcn.h>

#include <stdexcept>

namespace jp::cuda {

Library::Library(std::initializer_list<std::string> names) {
  std::string tried;
  for (const std::string& name : names) {
    handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      name_ = name;
      return;
    }
    const char* error = dlerror();
    tried += (tried.empty() ? "" : "; ") + std::string(error != nullptr ? error : name);
  }
  throw std::runtime_error(tried);
}

void* Library::Symbol(const char* name) const {
  void* const symbol = dlsym(handle_, name);
  if (symbol == nullptr) throw std::runtime_error(name_ + " has no function " + name);
  return symbol;
}

}  // namespace jp::cuda
