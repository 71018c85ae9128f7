// SPDX-License-Identifier: Apache-2.0
// Chooses an NVRTC, and compiles with it.
#include "cuda/nvrtc.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "cuda/driver.h"
#include "cuda/library.h"

namespace jp::cuda {
namespace {

constexpr const char* kVariable = "JAX_PERSISTENT_LIBNVRTC";
constexpr const char* kHowToMend =
    "Install it with pip: jax-persistent[cuda13] or jax-persistent[cuda12], as your jax has; or "
    "name a libnvrtc.so with JAX_PERSISTENT_LIBNVRTC";
// The first whose PTX has fence.acquire.sync_restrict (ISA 8.6).
constexpr std::pair<int, int> kOldest = {12, 8};

using Program = struct Program_st*;

// nvrtcResult is 0 where all is well.
#define JP_NVRTC_FUNCTIONS(X)                                                           \
  X(Version, "nvrtcVersion", int, (int* major, int* minor))                             \
  X(GetErrorString, "nvrtcGetErrorString", const char*, (int result))                   \
  X(CreateProgram, "nvrtcCreateProgram", int,                                           \
    (Program * program, const char* text, const char* name, int headers,                \
     const char* const* header_texts, const char* const* header_names))                 \
  X(DestroyProgram, "nvrtcDestroyProgram", int, (Program * program))                    \
  X(CompileProgram, "nvrtcCompileProgram", int,                                         \
    (Program program, int options, const char* const* texts))                           \
  X(GetProgramLogSize, "nvrtcGetProgramLogSize", int, (Program program, size_t* bytes)) \
  X(GetProgramLog, "nvrtcGetProgramLog", int, (Program program, char* log))             \
  X(GetPTXSize, "nvrtcGetPTXSize", int, (Program program, size_t* bytes))               \
  X(GetPTX, "nvrtcGetPTX", int, (Program program, char* ptx))                           \
  X(GetCUBINSize, "nvrtcGetCUBINSize", int, (Program program, size_t* bytes))           \
  X(GetCUBIN, "nvrtcGetCUBIN", int, (Program program, char* cubin))                     \
  X(GetNumSupportedArchs, "nvrtcGetNumSupportedArchs", int, (int* count))               \
  X(GetSupportedArchs, "nvrtcGetSupportedArchs", int, (int* architectures))

struct Nvrtc {
#define JP_MEMBER(member, symbol, result, parameters) result(*member) parameters = nullptr;
  JP_NVRTC_FUNCTIONS(JP_MEMBER)
#undef JP_MEMBER
  NvrtcVersion version;
  std::vector<int> architectures;  // in ascending order

  void Check(const char* what, int result) const {
    if (result != 0) throw std::runtime_error(std::string(what) + ": " + GetErrorString(result));
  }
};

std::string NameOf(const NvrtcVersion& version) {
  return "NVRTC " + std::to_string(version.major) + "." + std::to_string(version.minor) + " (" +
         version.library + ")";
}

// Throws std::runtime_error if the file is not there or will not do.
Nvrtc Open(const std::string& file, int driver_version) {
  const Library library({file});
  Nvrtc nvrtc;
#define JP_FIND(member, symbol, result, parameters) library.Find(nvrtc.member, symbol);
  JP_NVRTC_FUNCTIONS(JP_FIND)
#undef JP_FIND
  NvrtcVersion& version = nvrtc.version;
  version.library = file;
  nvrtc.Check("nvrtcVersion", nvrtc.Version(&version.major, &version.minor));
  if (std::pair(version.major, version.minor) < kOldest) {
    throw std::runtime_error(NameOf(version) + " is too old: " + std::to_string(kOldest.first) +
                             "." + std::to_string(kOldest.second) + " is the oldest that will do");
  }
  if (version.major > driver_version / 1000) {
    throw std::runtime_error(NameOf(version) + " is too new for the driver, which runs CUDA " +
                             std::to_string(driver_version / 1000) + "." +
                             std::to_string(driver_version % 1000 / 10));
  }
  int count = 0;
  nvrtc.Check("nvrtcGetNumSupportedArchs", nvrtc.GetNumSupportedArchs(&count));
  nvrtc.architectures.resize(count);
  nvrtc.Check("nvrtcGetSupportedArchs", nvrtc.GetSupportedArchs(nvrtc.architectures.data()));
  std::sort(nvrtc.architectures.begin(), nvrtc.architectures.end());
  return nvrtc;
}

// The newest CUDA that the driver runs. Where there is no driver, kernels can be compiled for
// another machine: any will do.
int DriverVersion() {
  try {
    return TheDriver().version;
  } catch (const std::runtime_error&) {
    return std::numeric_limits<int>::max();
  }
}

std::mutex nvrtc_mutex;
std::vector<std::string> nvrtc_files;
std::unique_ptr<const Nvrtc> chosen_nvrtc;  // kept once it is found

const Nvrtc& Chosen() {
  const std::lock_guard lock(nvrtc_mutex);
  if (chosen_nvrtc != nullptr) return *chosen_nvrtc;
  const int driver_version = DriverVersion();
  std::vector<std::string> files = nvrtc_files;
  files.insert(files.end(), {"libnvrtc.so.13", "libnvrtc.so.12"});
  const char* named = std::getenv(kVariable);
  if (named != nullptr && *named != '\0') files = {named};
  std::string tried;
  for (const std::string& file : files) {
    try {
      chosen_nvrtc = std::make_unique<const Nvrtc>(Open(file, driver_version));
      return *chosen_nvrtc;
    } catch (const std::runtime_error& error) {
      tried += (tried.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw std::runtime_error("no NVRTC to compile the kernels with: " + tried + ". " + kHowToMend);
}

}  // namespace

void SearchForNvrtc(std::vector<std::string> files) {
  const std::lock_guard lock(nvrtc_mutex);
  nvrtc_files = std::move(files);
}

NvrtcVersion TheNvrtc() { return Chosen().version; }

std::string CompilationTarget(int architecture) {
  const std::vector<int>& known = Chosen().architectures;
  const auto after = std::upper_bound(known.begin(), known.end(), architecture);
  if (after == known.begin()) {
    throw std::runtime_error(NameOf(Chosen().version) + " makes no code for sm_" +
                             std::to_string(architecture));
  }
  const std::string nearest = std::to_string(*(after - 1));
  if (*(after - 1) != architecture) return "compute_" + nearest;
  return "sm_" + nearest + (architecture == 90 ? "a" : "");
}

std::string CompileSource(const std::string& name, const std::string& text,
                          const std::vector<SourceFile>& headers,
                          const std::vector<std::string>& options, const std::string& target) {
  const Nvrtc& nvrtc = Chosen();
  std::vector<const char*> texts, names, given;
  for (const SourceFile& header : headers) {
    texts.push_back(header.text);
    names.push_back(header.name);
  }
  const std::string architecture = "--gpu-architecture=" + target;
  given.push_back(architecture.c_str());
  for (const std::string& option : options) given.push_back(option.c_str());

  Program program = nullptr;
  nvrtc.Check("nvrtcCreateProgram",
              nvrtc.CreateProgram(&program, text.c_str(), name.c_str(),
                                  static_cast<int>(headers.size()), texts.data(), names.data()));
  const auto destroy = [&nvrtc](Program made) { nvrtc.DestroyProgram(&made); };
  const std::unique_ptr<Program_st, decltype(destroy)> owner(program, destroy);

  if (const int result =
          nvrtc.CompileProgram(program, static_cast<int>(given.size()), given.data());
      result != 0) {
    size_t bytes = 0;
    nvrtc.GetProgramLogSize(program, &bytes);
    std::string log(bytes, '\0');
    if (bytes > 0) nvrtc.GetProgramLog(program, log.data());
    throw std::runtime_error(NameOf(nvrtc.version) + " can't compile " + name + " for " + target +
                             ": " + nvrtc.GetErrorString(result) + "\n" + log.c_str());
  }
  size_t bytes = 0;
  const bool is_ptx = target.starts_with("compute_");
  nvrtc.Check("nvrtcGet...Size",
              is_ptx ? nvrtc.GetPTXSize(program, &bytes) : nvrtc.GetCUBINSize(program, &bytes));
  std::string image(bytes, '\0');
  nvrtc.Check("nvrtcGet...",
              is_ptx ? nvrtc.GetPTX(program, image.data()) : nvrtc.GetCUBIN(program, image.data()));
  return image;
}

}  // namespace jp::cuda
