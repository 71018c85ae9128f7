// SPDX-License-Identifier: Apache-2.0
// A stand-in for libcuda: devices, contexts, modules and launches, with a driver's refusals.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/driver_api.h"
#include "tests/cuda/software_gpu/machine.h"
#include "tests/cuda/software_gpu/software_gpu.h"

using namespace jp::cuda;
using jp::software_gpu::Failure;
using jp::software_gpu::Kernel;
using jp::software_gpu::Module;

namespace jp::cuda {

struct CUctx_st {
  int ordinal;
  CUresult sticky = CUDA_SUCCESS;  // a kernel's error stays with its context
};
struct CUmod_st {
  CUcontext context;
  Module module;
};
struct CUfunc_st {
  CUmodule module;
  const Kernel* kernel;
  int dynamic_bytes = 48 << 10;
  bool any_cluster = false;
};
struct CUstream_st {
  CUcontext context;
};

}  // namespace jp::cuda

namespace {

constexpr int kDefaultShared = 48 << 10, kPortableCluster = 8;

struct State {
  std::mutex mutex;
  bool initialised = false;
  std::vector<SoftwareDevice> devices = {{90, 4, 160 << 10, 4, 1 << 20, 1}};
  std::map<int, std::unique_ptr<CUctx_st>> contexts;
  std::map<int, std::unique_ptr<CUstream_st>> streams;
  std::vector<std::unique_ptr<CUstream_st>> made_streams;
  std::map<CUdeviceptr, std::unique_ptr<std::byte[]>> memory;
  std::vector<std::unique_ptr<CUmod_st>> modules;
  std::vector<std::unique_ptr<CUfunc_st>> functions;
  jp::software_gpu::RunOptions options;
  SoftwareCounts counts{};
  std::string last_error;
};

State& TheState() {
  static State* state = new State;
  return *state;
}

thread_local std::vector<CUcontext> current;
thread_local int64_t preparations = 0;  // of this thread: all that does not belong to executing

CUcontext Current() { return current.empty() ? nullptr : current.back(); }

bool Exists(int ordinal) {
  return ordinal >= 0 && ordinal < static_cast<int>(TheState().devices.size());
}
const SoftwareDevice& DeviceOf(CUcontext context) { return TheState().devices[context->ordinal]; }

// What is wrong with doing something in the current context, on a stream.
CUresult WrongContext(CUstream stream) {
  if (!TheState().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (stream == nullptr || stream->context != Current()) return CUDA_ERROR_INVALID_HANDLE;
  return Current()->sticky;
}

// The shape of a launch, and what is wrong with it.
CUresult WrongLaunch(const CUlaunchConfig& config, const CUfunc_st& function, int& cluster,
                     bool& cooperative) {
  const SoftwareDevice& device = DeviceOf(function.module->context);
  cluster = 1;
  cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      cooperative = attribute.value.cooperative != 0;
    } else if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      const auto& size = attribute.value.clusterDim;
      if (size.y != 1 || size.z != 1) return CUDA_ERROR_INVALID_VALUE;
      cluster = static_cast<int>(size.x);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  const auto threads = static_cast<int>(config.blockDimX);
  const auto blocks = static_cast<int>(config.gridDimX);
  const bool flat = config.gridDimY == 1 && config.gridDimZ == 1 && config.blockDimY == 1 &&
                    config.blockDimZ == 1;
  if (!flat || threads <= 0 || blocks <= 0 || threads > 1024 || threads % 32 != 0 ||
      threads > function.kernel->most_threads) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (static_cast<int>(config.sharedMemBytes) > function.dynamic_bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (cluster > 1) {
    const bool allowed = cluster <= kPortableCluster || function.any_cluster;
    if (device.cluster_blocks == 1 || cluster < 1 || blocks % cluster != 0 || !allowed ||
        cluster > device.cluster_blocks || cluster > device.processors) {
      return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    }
  }
  // A block takes a processor: kernels of this project have all of its registers.
  if (cooperative && (!device.cooperative || blocks > device.processors)) {
    return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  }
  return CUDA_SUCCESS;
}

// sm_90a code is for sm_90 alone; other PTX is for its architecture and all later ones.
bool RunsOn(const std::string& target, int capability) {
  const int number = std::atoi(target.c_str() + 3);
  const bool specific = target.back() == 'a' || target.back() == 'f';
  return specific ? number == capability : number <= capability;
}

// A module with a fault in it, for tests: SOFTWARE_GPU_MUTANT is "this=>that", and each this
// becomes that. A | stands for a semicolon.
std::string Mutated(std::string text) {
  const char* mutant = std::getenv("SOFTWARE_GPU_MUTANT");
  if (mutant == nullptr) return text;
  std::string both = mutant;
  std::replace(both.begin(), both.end(), '|', ';');
  const size_t arrow = both.find("=>");
  const std::string from = both.substr(0, arrow), to = both.substr(arrow + 2);
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  TheState().initialised = true;
  return TheState().devices.empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
#define JP_NAME(value) \
  case value: *name = #value; return CUDA_SUCCESS;
    JP_NAME(CUDA_SUCCESS)
    JP_NAME(CUDA_ERROR_INVALID_VALUE)
    JP_NAME(CUDA_ERROR_OUT_OF_MEMORY)
    JP_NAME(CUDA_ERROR_NOT_INITIALIZED)
    JP_NAME(CUDA_ERROR_NO_DEVICE)
    JP_NAME(CUDA_ERROR_INVALID_DEVICE)
    JP_NAME(CUDA_ERROR_INVALID_IMAGE)
    JP_NAME(CUDA_ERROR_INVALID_CONTEXT)
    JP_NAME(CUDA_ERROR_NO_BINARY_FOR_GPU)
    JP_NAME(CUDA_ERROR_INVALID_PTX)
    JP_NAME(CUDA_ERROR_INVALID_HANDLE)
    JP_NAME(CUDA_ERROR_NOT_FOUND)
    JP_NAME(CUDA_ERROR_MISALIGNED_ADDRESS)
    JP_NAME(CUDA_ERROR_INVALID_ADDRESS_SPACE)
    JP_NAME(CUDA_ERROR_ILLEGAL_ADDRESS)
    JP_NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
    JP_NAME(CUDA_ERROR_ASSERT)
    JP_NAME(CUDA_ERROR_LAUNCH_FAILED)
    JP_NAME(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)
    JP_NAME(CUDA_ERROR_INVALID_CLUSTER_SIZE)
#undef JP_NAME
  }
  *name = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_SUCCESS ? "no error" : "refused by the software GPU";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  if (!TheState().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  *count = static_cast<int>(TheState().devices.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (!TheState().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (!Exists(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<size_t>(bytes), "Software GPU %d", device);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  State& state = TheState();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  ++state.counts.queries;
  ++preparations;
  const SoftwareDevice& d = state.devices[static_cast<size_t>(device)];
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = d.processors; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = d.l2_bytes; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = d.capability / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = d.capability % 10; break;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: *value = d.cooperative; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = d.shared_bytes; break;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH: *value = d.cluster_blocks > 1; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  auto& kept = state.contexts[device];
  if (kept == nullptr) {
    kept = std::make_unique<CUctx_st>();
    kept->ordinal = device;
    ++state.counts.contexts;
    ++preparations;
  }
  *context = kept.get();
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  *flags = 0;
  *active = state.contexts.contains(device);
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  current.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  State& state = TheState();
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const std::string text = Mutated(static_cast<const char*>(image));
  if (text.find(".version") == std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
  auto loaded = std::make_unique<CUmod_st>();
  loaded->context = Current();
  try {
    loaded->module = jp::software_gpu::ParsePtx(text);
  } catch (const std::exception& error) {
    state.last_error = error.what();
    return CUDA_ERROR_INVALID_PTX;
  }
  if (!RunsOn(loaded->module.target, DeviceOf(Current()).capability)) {
    state.last_error = "PTX for " + loaded->module.target;
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  const std::lock_guard lock(state.mutex);
  ++state.counts.modules;
  ++preparations;
  *module = loaded.get();
  state.modules.push_back(std::move(loaded));
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  State& state = TheState();
  const auto found = module->module.kernels.find(name);
  if (found == module->module.kernels.end()) return CUDA_ERROR_NOT_FOUND;
  const std::lock_guard lock(state.mutex);
  state.functions.push_back(std::make_unique<CUfunc_st>());
  *function = state.functions.back().get();
  (*function)->module = module;
  (*function)->kernel = &found->second;
  ++state.counts.functions;
  ++preparations;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = 0; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 255; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->dynamic_bytes; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  State& state = TheState();
  if (Current() != function->module->context) return CUDA_ERROR_INVALID_HANDLE;
  ++state.counts.attributes;
  ++preparations;
  const SoftwareDevice& device = DeviceOf(Current());
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      if (value < 0 || value > device.shared_bytes) return CUDA_ERROR_INVALID_VALUE;
      function->dynamic_bytes = std::max(value, kDefaultShared);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      if (device.cluster_blocks == 1) return CUDA_ERROR_INVALID_VALUE;
      function->any_cluster = value != 0;
      return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction function,
                                      const CUlaunchConfig* config) {
  int size = 1;
  bool cooperative = false;
  const CUresult wrong = WrongLaunch(*config, *function, size, cooperative);
  if (wrong != CUDA_SUCCESS) return wrong;
  *clusters = DeviceOf(function->module->context).processors / size;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments,
                          void** extra) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  if (const CUresult wrong = WrongContext(config->hStream)) return wrong;
  if (extra != nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (function->module->context != Current()) return CUDA_ERROR_INVALID_HANDLE;
  int cluster = 1;
  bool cooperative = false;
  if (const CUresult wrong = WrongLaunch(*config, *function, cluster, cooperative)) return wrong;
  ++state.counts.launches;
  ++state.options.seed;
  const auto result = jp::software_gpu::RunGrid(
      function->module->module, *function->kernel, arguments[0],
      {static_cast<int>(config->gridDimX), static_cast<int>(config->blockDimX), cluster,
       config->sharedMemBytes},
      state.options);
  state.counts.instructions += static_cast<int64_t>(result.instructions);
  if (result.failure == Failure::kNone) return CUDA_SUCCESS;
  state.last_error = result.error;
  std::fprintf(stderr, "%s\n", result.error.c_str());
  // A kernel's error is reported by a later call, on a real GPU; here there is nothing to wait for.
  Current()->sticky = result.failure == Failure::kAssert      ? CUDA_ERROR_ASSERT
                      : result.failure == Failure::kAddress   ? CUDA_ERROR_ILLEGAL_ADDRESS
                      : result.failure == Failure::kAlignment ? CUDA_ERROR_MISALIGNED_ADDRESS
                                                              : CUDA_ERROR_LAUNCH_FAILED;
  return Current()->sticky;
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  State& state = TheState();
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(state.mutex);
  state.made_streams.push_back(std::make_unique<CUstream_st>(Current()));
  *stream = state.made_streams.back().get();
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) { return WrongContext(stream); }

CUresult cuMemAlloc_v2(CUdeviceptr* memory, size_t bytes) {
  State& state = TheState();
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  constexpr size_t kAligned = 256;
  const std::lock_guard lock(state.mutex);
  auto made = std::make_unique<std::byte[]>(bytes + kAligned);
  const auto begin = reinterpret_cast<CUdeviceptr>(made.get());
  *memory = (begin + kAligned - 1) / kAligned * kAligned;
  state.memory[*memory] = std::move(made);
  return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr memory) {
  State& state = TheState();
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const std::lock_guard lock(state.mutex);
  return state.memory.erase(memory) == 1 ? Current()->sticky : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (from == 0) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return Current()->sticky;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  State& state = TheState();
  if (Current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const std::lock_guard lock(state.mutex);
  const auto ended = std::erase_if(state.made_streams,
                                   [stream](const auto& made) { return made.get() == stream; });
  return ended == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream) {
  if (const CUresult wrong = WrongContext(stream)) return wrong;
  if (to == 0 || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  ++TheState().counts.fills;
  std::memset(reinterpret_cast<void*>(to), byte, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  if (const CUresult wrong = WrongContext(stream)) return wrong;
  const bool devices =
      copy->srcMemoryType == CU_MEMORYTYPE_DEVICE && copy->dstMemoryType == CU_MEMORYTYPE_DEVICE;
  if (!devices || copy->srcDevice == 0 || copy->dstDevice == 0 ||
      copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  ++TheState().counts.copies;
  for (size_t row = 0; row < copy->Height; ++row) {
    std::memcpy(reinterpret_cast<void*>(copy->dstDevice + row * copy->dstPitch),
                reinterpret_cast<const void*>(copy->srcDevice + row * copy->srcPitch),
                copy->WidthInBytes);
  }
  return CUDA_SUCCESS;
}

void SoftwareGpuSetDevices(const SoftwareDevice* devices, int count) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.devices.assign(devices, devices + count);
}
void SoftwareGpuSetSeed(uint64_t seed) { TheState().options.seed = seed; }
void SoftwareGpuSetRoundNs(uint64_t nanoseconds) { TheState().options.round_ns = nanoseconds; }
void SoftwareGpuSetDelaysStores(int delays) { TheState().options.delays_stores = delays != 0; }
void SoftwareGpuAllowMemory(const void* first, uint64_t bytes) {
  TheState().options.memory.emplace_back(reinterpret_cast<uint64_t>(first), bytes);
}
void SoftwareGpuAllowAllMemory() { TheState().options.memory.clear(); }

SoftwareCounts SoftwareGpuCounts(int resets) {
  const SoftwareCounts counts = TheState().counts;
  if (resets != 0) TheState().counts = {};
  return counts;
}

int64_t SoftwareGpuPreparations() { return preparations; }

void* SoftwareGpuStream(int ordinal) {
  State& state = TheState();
  CUcontext context = nullptr;
  if (cuDevicePrimaryCtxRetain(&context, ordinal) != CUDA_SUCCESS) return nullptr;
  const std::lock_guard lock(state.mutex);
  auto& stream = state.streams[ordinal];
  if (stream == nullptr) stream = std::make_unique<CUstream_st>(context);
  return stream.get();
}

const char* SoftwareGpuLastError() { return TheState().last_error.c_str(); }

void SoftwareGpuForgive() {
  for (auto& [ordinal, context] : TheState().contexts) context->sticky = CUDA_SUCCESS;
}

}  // extern "C"
