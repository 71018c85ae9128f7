// SPDX-License-Identifier: Apache-2.0
// NVRTC, CUDA's compiler as a library, opened at run time.
#pragma once

#include <string>
#include <vector>

namespace jp::cuda {

// Where to look besides the loader's own paths: full names of files, best first. jax's wheels of
// CUDA have one in site-packages.
void SearchForNvrtc(std::vector<std::string> files);

struct NvrtcVersion {
  int major = 0, minor = 0;
  std::string library;
};

// The NVRTC that is used: what the environment variable JAX_PERSISTENT_LIBNVRTC names, else the
// first of the above and of the loader's whose code the driver can run. Throws std::runtime_error
// that says what is missing, or too old, and how to mend it.
NvrtcVersion TheNvrtc();

// What the kernels of an architecture, 90 for sm_90, are compiled as: "sm_90a", which is the GPU's
// own code, or, if this NVRTC does not know the architecture yet, "compute_120", the newest PTX
// that it can write, for the driver to compile.
std::string CompilationTarget(int architecture);

struct SourceFile {
  const char* name;
  const char* text;
};

// Compiles to the GPU's code, or to PTX for a "compute_" target. Throws std::runtime_error with the
// compiler's log.
std::string CompileSource(const std::string& name, const std::string& text,
                          const std::vector<SourceFile>& headers,
                          const std::vector<std::string>& options, const std::string& target);

}  // namespace jp::cuda
