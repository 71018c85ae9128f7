// SPDX-License-Identifier: Apache-2.0
// Asks the driver about devices, loads kernels, and launches them.
//
// Kernels are loaded at XLA's initialize stage. Loading may wait until a device is idle. Where a
// process runs a program on several GPUs, a device that loads while another's collective spins for
// it would wait for ever; XLA has all of a program's devices meet after the first initialization,
// so that none executes before all have loaded.
#include "cuda/device.h"

#include <map>
#include <memory>
#include <stdexcept>

#include "cuda/driver.h"
#include "cuda/kernel_cache.h"
#include "cuda/launches.h"
#include "cuda/nvrtc.h"

namespace jp::cuda {
namespace {

constexpr int kPortableCluster = 8;

int Query(CUdevice_attribute attribute, CUdevice device) {
  int value = 0;
  Check("cuDeviceGetAttribute", TheDriver().DeviceGetAttribute(&value, attribute, device));
  return value;
}

CUdevice DeviceAt(int ordinal) {
  CUdevice device = 0;
  Check("cuDeviceGet", TheDriver().DeviceGet(&device, ordinal));
  return device;
}

// Loads a kernel in the current context, lets it have all of a block's shared memory and, if it is
// one for clusters, clusters of any size. Modules are never unloaded: programs of this process may
// use them until it ends, and then the driver goes first.
CUfunction LoadFunction(const std::string& image, const std::string& name, int shared_bytes,
                        bool cluster) {
  const Driver& driver = TheDriver();
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  Check("cuModuleLoadData", driver.ModuleLoadData(&module, image.c_str()));
  Check("cuModuleGetFunction", driver.ModuleGetFunction(&function, module, name.c_str()));
  // The driver may put loading off until a function is used: asking it for something is that.
  int static_bytes = 0;
  Check("cuFuncGetAttribute",
        driver.FuncGetAttribute(&static_bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function));
  Check("cuFuncSetAttribute",
        driver.FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                shared_bytes - static_bytes));
  if (cluster) {
    Check(
        "cuFuncSetAttribute",
        driver.FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
  }
  return function;
}

CUlaunchConfig ConfigOf(int blocks, int threads, int shared_bytes, CUlaunchAttribute* attributes,
                        unsigned count) {
  CUlaunchConfig config{};
  config.gridDimX = static_cast<unsigned>(blocks);
  config.blockDimX = static_cast<unsigned>(threads);
  config.sharedMemBytes = static_cast<unsigned>(shared_bytes);
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.attrs = attributes;
  config.numAttrs = count;
  return config;
}

CUlaunchAttribute ClustersOf(int blocks) {
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attribute.value.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  return attribute;
}

// Blocks of the largest cluster that a device can place: more than the portable 8 on some GPUs,
// fewer where a part of one is lent. A kernel that takes as much shared memory as ours will do to
// ask: either way a processor holds one block.
int LargestCluster(int ordinal, int architecture, int shared_bytes) {
  const std::string image =
      CompileSource("probe.cu", "extern \"C\" __global__ void __launch_bounds__(256, 1) probe() {}",
                    {}, {}, CompilationTarget(architecture));
  const DeviceScope scope(ordinal);
  const CUfunction probe = LoadFunction(image, "probe", shared_bytes, true);
  for (int blocks = 2 * kPortableCluster; blocks > 1; blocks /= 2) {
    CUlaunchAttribute attribute = ClustersOf(blocks);
    const CUlaunchConfig config =
        ConfigOf(blocks, kMostWarps * kLanes, shared_bytes, &attribute, 1);
    int clusters = 0;
    const CUresult error = TheDriver().OccupancyMaxActiveClusters(&clusters, probe, &config);
    if (error == CUDA_SUCCESS && clusters > 0) return blocks;
  }
  return 1;
}

DeviceFacts AskDevice(int ordinal) {
  const CUdevice device = DeviceAt(ordinal);
  DeviceFacts facts{};
  facts.architecture = 10 * Query(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device) +
                       Query(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  // Without cooperative launches blocks that wait for each other might never meet; before sm_80
  // there is no mma.sync of bfloat16.
  if (facts.architecture >= 80 && Query(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, device) != 0) {
    facts.processors = Query(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  }
  facts.shared_bytes = Query(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  facts.l2_bytes = Query(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device);
  if (facts.processors > 0 && Query(CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, device) != 0) {
    facts.cluster_blocks = LargestCluster(ordinal, facts.architecture, facts.shared_bytes);
  }
  return facts;
}

std::string NamesOfDevices() {
  int count = 0;
  Check("cuDeviceGetCount", TheDriver().DeviceGetCount(&count));
  std::string names;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    const CUdevice device = DeviceAt(ordinal);
    char name[256] = {};
    Check("cuDeviceGetName", TheDriver().DeviceGetName(name, sizeof name, device));
    names += (names.empty() ? "" : ", ") + std::string(name) + " (sm_" +
             std::to_string(Query(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)) +
             std::to_string(Query(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)) + ")";
  }
  return names.empty() ? "none" : names;
}

struct LaunchSize {
  int blocks, threads, shared_bytes, cluster;
  bool cooperative;  // an error if the blocks cannot all be there at once
};

// A stream as launches.h's device; remembers the first thing that fails.
class StreamDevice {
 public:
  StreamDevice(CUfunction function, CUstream stream) : function_(function), stream_(stream) {}

  bool Fill(void* to, int byte, int64_t bytes) {
    return Note("cuMemsetD8Async", TheDriver().MemsetD8Async(reinterpret_cast<CUdeviceptr>(to),
                                                             static_cast<unsigned char>(byte),
                                                             static_cast<size_t>(bytes), stream_));
  }
  bool CopyRows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width,
                int64_t rows) {
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = reinterpret_cast<CUdeviceptr>(from);
    copy.dstDevice = reinterpret_cast<CUdeviceptr>(to);
    copy.srcPitch = static_cast<size_t>(from_pitch);
    copy.dstPitch = static_cast<size_t>(to_pitch);
    copy.WidthInBytes = static_cast<size_t>(width);
    copy.Height = static_cast<size_t>(rows);
    return Note("cuMemcpy2DAsync", TheDriver().Memcpy2DAsync(&copy, stream_));
  }
  template <class Arrays>
  bool Launch(LaunchArgs<Arrays> args, int blocks, int cluster) {
    const Geometry& g = args.geometry;
    return Start(&args, {blocks, g.threads(), g.shared_bytes, cluster, !g.cluster()});
  }
  bool Start(void* argument, const LaunchSize& size) {
    CUlaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (size.cluster > 1) attributes[count++] = ClustersOf(size.cluster);
    if (size.cooperative) {
      attributes[count].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
      attributes[count++].value.cooperative = 1;
    }
    CUlaunchConfig config =
        ConfigOf(size.blocks, size.threads, size.shared_bytes, attributes, count);
    config.hStream = stream_;
    void* arguments[] = {argument};
    return Note("cuLaunchKernelEx",
                TheDriver().LaunchKernelEx(&config, function_, arguments, nullptr));
  }

  bool Note(const char* what, CUresult error) {
    if (error != CUDA_SUCCESS && error_.empty()) error_ = Describe(what, error);
    return error == CUDA_SUCCESS;
  }
  const std::string& error() const { return error_; }

 private:
  const CUfunction function_;
  const CUstream stream_;
  std::string error_;
};

template <class Arrays>
std::string EnqueueArrays(const DeviceCall& call, const Arrays& arrays) {
  const auto function = static_cast<CUfunction>(call.kernel.On(call.ordinal));
  if (function == nullptr) {
    return "GPU " + std::to_string(call.ordinal) +
           ": the kernel is not loaded there; that belongs to the initialize stage";
  }
  const DeviceScope scope(call.ordinal);
  StreamDevice device(function, static_cast<CUstream>(call.stream));
  Enqueue(call.problem, call.plan, arrays, call.workspace, call.timeout_ns, device);
  return device.error();
}

}  // namespace

std::string Missing() {
  try {
    TheDriver();
    TheNvrtc();
    return {};
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

std::vector<std::pair<std::string, std::string>> ReportHere() {
  const auto said = [](const auto& ask) -> std::string {
    try {
      return ask();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  };
  const CacheSize size = SizeOfCache();
  const std::string folder = CacheFolder();
  return {{"GPUs", said([] { return NamesOfDevices(); })},
          {"NVRTC", said([] {
             const NvrtcVersion version = TheNvrtc();
             return std::to_string(version.major) + "." + std::to_string(version.minor) + ", " +
                    version.library;
           })},
          {"GPU kernel cache", folder.empty()
                                   ? "none: JAX_PERSISTENT_CACHE_DIR is empty"
                                   : folder + ", " + std::to_string(size.kernels) + " kernels, " +
                                         std::to_string(size.bytes >> 10) + " KiB"}};
}

DeviceFacts FactsOfDevice(int ordinal) {
  static std::mutex mutex;
  static std::array<DeviceFacts, kMostDevices> known{};
  const std::lock_guard lock(mutex);
  const bool kept = ordinal >= 0 && ordinal < kMostDevices;
  if (kept && known[ordinal].architecture != 0) return known[ordinal];
  const DeviceFacts facts = AskDevice(ordinal);
  if (kept) known[ordinal] = facts;
  return facts;
}

std::vector<int> DevicesInUse() {
  int count = 0;
  Check("cuDeviceGetCount", TheDriver().DeviceGetCount(&count));
  std::vector<int> ordinals;
  for (int ordinal = 0; ordinal < count && ordinal < kMostDevices; ++ordinal) {
    unsigned flags = 0;
    int active = 0;
    Check("cuDevicePrimaryCtxGetState",
          TheDriver().DevicePrimaryCtxGetState(DeviceAt(ordinal), &flags, &active));
    if (active != 0) ordinals.push_back(ordinal);
  }
  return ordinals;
}

void DeviceKernel::Compile() {
  const std::lock_guard lock(mutex_);
  if (image_.empty()) image_ = CompileKernel(text_, facts_.architecture);
}

void DeviceKernel::Load(int ordinal) {
  if (ordinal < 0 || ordinal >= kMostDevices) {
    throw std::runtime_error("GPU " + std::to_string(ordinal) + ": too many devices");
  }
  if (On(ordinal) != nullptr) return;
  Compile();
  const std::lock_guard lock(mutex_);
  if (On(ordinal) != nullptr) return;
  const DeviceScope scope(ordinal);
  functions_[ordinal].store(LoadFunction(image_, text_.name, facts_.shared_bytes, text_.cluster),
                            std::memory_order_release);
}

DeviceKernel& KernelFor(KernelText text, const DeviceFacts& facts) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<DeviceKernel>> kernels;
  const std::string key = text.name + " " + std::to_string(facts.architecture) + " " +
                          std::to_string(facts.shared_bytes) + " " + text.source;
  const std::lock_guard lock(mutex);
  std::unique_ptr<DeviceKernel>& kernel = kernels[key];
  if (kernel == nullptr) kernel = std::make_unique<DeviceKernel>(std::move(text), facts);
  return *kernel;
}

std::vector<uint32_t> RunSource(const SourceKernel& kernel, int64_t words, int ordinal) {
  const DeviceFacts facts = FactsOfDevice(ordinal);
  const bool clusters = kernel.cluster > 1;
  DeviceKernel& loaded = KernelFor({kernel.name, kernel.source, clusters}, facts);
  loaded.Load(ordinal);
  const DeviceScope scope(ordinal);
  const Driver& driver = TheDriver();
  std::vector<uint32_t> found(static_cast<size_t>(words));
  const size_t bytes = found.size() * sizeof(uint32_t);
  CUdeviceptr memory = 0;
  CUstream stream = nullptr;
  Check("cuStreamCreate", driver.StreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  StreamDevice device(static_cast<CUfunction>(loaded.On(ordinal)), stream);
  if (device.Note("cuMemAlloc", driver.MemAlloc(&memory, bytes))) {
    device.Note("cuMemsetD8Async", driver.MemsetD8Async(memory, 0, bytes, stream));
    device.Start(&memory, {kernel.blocks, kernel.threads, facts.shared_bytes / 4 * 3,
                           kernel.cluster, !clusters});
    device.Note("cuStreamSynchronize", driver.StreamSynchronize(stream));
    device.Note("cuMemcpyDtoH", driver.MemcpyDtoH(found.data(), memory, bytes));
    driver.MemFree(memory);
  }
  driver.StreamDestroy(stream);
  if (!device.error().empty()) throw std::runtime_error(device.error());
  return found;
}

std::string EnqueueOnDevice(const DeviceCall& call, const Forward& arrays) {
  return EnqueueArrays(call, arrays);
}
std::string EnqueueOnDevice(const DeviceCall& call, const Backward& arrays) {
  return EnqueueArrays(call, arrays);
}
std::string EnqueueOnDevice(const DeviceCall& call, const ProgramArrays& arrays) {
  return EnqueueArrays(call, arrays);
}

}  // namespace jp::cuda
