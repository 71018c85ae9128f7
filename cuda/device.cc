// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine, through CUDA's runtime.
#include "cuda/device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <mutex>
#include <stdexcept>

#include "cuda/launches.h"

namespace jp::cuda {
namespace {

constexpr int kPortableCluster = 8;
constexpr int kMostDevices = 64;  // whose facts are kept

std::string Describe(const char* what, cudaError_t error) {
  std::string text =
      std::string(what) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
  if (error == cudaErrorAssert) text += "; what stood still is on stderr, under jax_persistent";
  return text;
}

void Check(const char* what, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(Describe(what, error));
}

// Makes a device the thread's current one, and then again the one that was. Throws.
class DeviceScope {
 public:
  explicit DeviceScope(int ordinal) {
    Check("cudaGetDevice", cudaGetDevice(&previous_));
    if (previous_ == ordinal) return;
    Check("cudaSetDevice", cudaSetDevice(ordinal));
    changed_ = true;
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceScope(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

int Query(cudaDeviceAttr attribute, int device) {
  int value = 0;
  Check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Lets a kernel have all of a block's shared memory, and clusters of any size.
cudaError_t Allow(const void* kernel, int shared_bytes, bool cluster) {
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error == cudaSuccess && cluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return error;
}

// Blocks of the largest cluster that the current device can place: more than the portable 8 on some
// GPUs, fewer where a part of one is lent. Any kernel of clusters will do to ask.
int LargestCluster(int shared_bytes) {
  const auto kernel = reinterpret_cast<const void*>(
      KernelsOf(kCells[0].kind, Precision::kBfloat16).forward_cluster);
  if (Allow(kernel, shared_bytes, true) != cudaSuccess) cudaGetLastError();
  for (unsigned blocks = 2 * kPortableCluster; blocks > 1; blocks /= 2) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {blocks, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(kMostWarps * kLanes);
    config.dynamicSmemBytes = shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters > 0) {
      return static_cast<int>(blocks);
    }
  }
  cudaGetLastError();  // of a size that was too large
  return 1;
}

// Of the current device.
DeviceFacts AskDevice(int device) {
  DeviceFacts facts{};
  facts.architecture = 10 * Query(cudaDevAttrComputeCapabilityMajor, device) +
                       Query(cudaDevAttrComputeCapabilityMinor, device);
  // Without cooperative launches blocks that wait for each other might never meet.
  if (Query(cudaDevAttrCooperativeLaunch, device) != 0) {
    facts.processors = Query(cudaDevAttrMultiProcessorCount, device);
  }
  facts.shared_bytes = Query(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  facts.l2_bytes = Query(cudaDevAttrL2CacheSize, device);
  if (Query(cudaDevAttrClusterLaunch, device) != 0) {
    facts.cluster_blocks = LargestCluster(facts.shared_bytes);
  }
  return facts;
}

// Whether a kernel may already have what Allow gives, on each device: so that only a kernel's first
// call asks the driver.
class AllowedDevices {
 public:
  bool Has(int ordinal) const {
    return ordinal < kMostDevices && (devices_.load(std::memory_order_relaxed) >> ordinal & 1) != 0;
  }
  void Add(int ordinal) {
    if (ordinal < kMostDevices) {
      devices_.fetch_or(uint64_t{1} << ordinal, std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<uint64_t> devices_ = 0;
};

AllowedDevices& AllowedOf(const Problem& problem, const KernelPlan& plan) {
  constexpr size_t kPrecisions = 4, kPasses = 2, kExchanges = 2;
  static std::array<AllowedDevices, std::size(kCells) * kPrecisions * kPasses * kExchanges> all;
  size_t index = static_cast<size_t>(problem.cell.kind);
  index = index * kPrecisions + static_cast<size_t>(plan.precision);
  index = index * kPasses + static_cast<size_t>(problem.pass);
  return all[index * kExchanges + (plan.geometry.cluster() ? 1 : 0)];
}

// A stream as launches.h's device; remembers the first thing that fails.
class StreamDevice {
 public:
  explicit StreamDevice(const DeviceCall& call)
      : call_(call), stream_(static_cast<cudaStream_t>(call.stream)) {}

  bool Fill(void* to, int byte, int64_t bytes) {
    return Note("cudaMemsetAsync", cudaMemsetAsync(to, byte, bytes, stream_));
  }
  bool CopyRows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width,
                int64_t rows) {
    return Note("cudaMemcpy2DAsync", cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows,
                                                       cudaMemcpyDeviceToDevice, stream_));
  }
  template <class Arrays>
  bool Launch(Kernel<Arrays> kernel, LaunchArgs<Arrays> args, int blocks, int cluster) {
    const auto function = reinterpret_cast<const void*>(kernel);
    const bool is_cluster = args.geometry.cluster();
    AllowedDevices& allowed = AllowedOf(call_.problem, call_.plan);
    if (!allowed.Has(call_.ordinal)) {
      if (!Note("cudaFuncSetAttribute", Allow(function, call_.shared_bytes, is_cluster))) {
        return false;
      }
      allowed.Add(call_.ordinal);
    }
    cudaLaunchAttribute attribute{};
    if (is_cluster) {
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    } else {  // or an error: never a launch whose blocks cannot all be there
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(args.geometry.threads());
    config.dynamicSmemBytes = args.geometry.shared_bytes;
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = 1;
    void* arguments[] = {&args};
    return Note("cudaLaunchKernelExC", cudaLaunchKernelExC(&config, function, arguments));
  }

  const std::string& error() const { return error_; }

 private:
  bool Note(const char* what, cudaError_t error) {
    if (error != cudaSuccess && error_.empty()) error_ = Describe(what, error);
    return error == cudaSuccess;
  }

  const DeviceCall& call_;
  cudaStream_t stream_;
  std::string error_;
};

template <class Arrays>
std::string EnqueueArrays(const DeviceCall& call, const Arrays& arrays) {
  const DeviceScope scope(call.ordinal);
  StreamDevice device(call);
  Enqueue(call.problem, call.plan, arrays, call.workspace, call.timeout_ns, device);
  return device.error();
}

}  // namespace

std::string_view Missing() { return {}; }

DeviceFacts FactsOfDevice(int ordinal) {
  static std::mutex mutex;
  static std::array<DeviceFacts, kMostDevices> known{};
  const std::lock_guard lock(mutex);
  const bool kept = ordinal >= 0 && ordinal < kMostDevices;
  if (kept && known[ordinal].architecture != 0) return known[ordinal];
  const DeviceScope scope(ordinal);
  const DeviceFacts facts = AskDevice(ordinal);
  if (kept) known[ordinal] = facts;
  return facts;
}

std::string EnqueueOnDevice(const DeviceCall& call, const Forward& arrays) {
  return EnqueueArrays(call, arrays);
}
std::string EnqueueOnDevice(const DeviceCall& call, const Backward& arrays) {
  return EnqueueArrays(call, arrays);
}

}  // namespace jp::cuda
