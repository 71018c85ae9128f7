// SPDX-License-Identifier: Apache-2.0
// A stand-in for NVRTC: the real one compiles, but to PTX where a GPU's own code is asked for, as
// the software GPU runs that. SOFTWARE_GPU_NVRTC names the real library;
// SOFTWARE_GPU_NVRTC_VERSION, such as 12.6, is what it says that it is.
#include <dlfcn.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

void* Real(const char* name) {
  static void* const library = [] {
    const char* path = std::getenv("SOFTWARE_GPU_NVRTC");
    void* opened = dlopen(path != nullptr ? path : "libnvrtc.so.13", RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      std::fprintf(stderr, "software GPU: SOFTWARE_GPU_NVRTC: %s\n", dlerror());
      std::abort();
    }
    return opened;
  }();
  return dlsym(library, name);
}

template <class... Arguments>
int Call(const char* name, Arguments... arguments) {
  return reinterpret_cast<int (*)(Arguments...)>(Real(name))(arguments...);
}

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
  const char* said = std::getenv("SOFTWARE_GPU_NVRTC_VERSION");
  if (said != nullptr) return std::sscanf(said, "%d.%d", major, minor) == 2 ? 0 : 1;
  return Call("nvrtcVersion", major, minor);
}
const char* nvrtcGetErrorString(int result) {
  return reinterpret_cast<const char* (*)(int)>(Real("nvrtcGetErrorString"))(result);
}
int nvrtcCreateProgram(void** program, const char* text, const char* name, int headers,
                       const char* const* texts, const char* const* names) {
  return Call("nvrtcCreateProgram", program, text, name, headers, texts, names);
}
int nvrtcDestroyProgram(void** program) { return Call("nvrtcDestroyProgram", program); }

int nvrtcCompileProgram(void* program, int count, const char* const* options) {
  std::vector<std::string> changed(options, options + count);
  const std::string real = "--gpu-architecture=sm_", ptx = "--gpu-architecture=compute_";
  for (std::string& option : changed) {
    if (option.starts_with(real)) option = ptx + option.substr(real.size());
  }
  std::vector<const char*> texts;
  for (const std::string& option : changed) texts.push_back(option.c_str());
  return Call("nvrtcCompileProgram", program, count, texts.data());
}

int nvrtcGetProgramLogSize(void* program, size_t* bytes) {
  return Call("nvrtcGetProgramLogSize", program, bytes);
}
int nvrtcGetProgramLog(void* program, char* log) {
  return Call("nvrtcGetProgramLog", program, log);
}
int nvrtcGetPTXSize(void* program, size_t* bytes) {
  return Call("nvrtcGetPTXSize", program, bytes);
}
int nvrtcGetPTX(void* program, char* ptx) { return Call("nvrtcGetPTX", program, ptx); }
int nvrtcGetCUBINSize(void* program, size_t* bytes) { return nvrtcGetPTXSize(program, bytes); }
int nvrtcGetCUBIN(void* program, char* cubin) { return nvrtcGetPTX(program, cubin); }
int nvrtcGetNumSupportedArchs(int* count) { return Call("nvrtcGetNumSupportedArchs", count); }
int nvrtcGetSupportedArchs(int* architectures) {
  return Call("nvrtcGetSupportedArchs", architectures);
}

}  // extern "C"
