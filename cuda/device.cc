#include "cuda/device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <mutex>
#include <stdexcept>

namespace jp::cuda {
namespace {

constexpr int kPortableCluster = 8;

std::string Describe(const char* what, cudaError_t error) {
  std::string text =
      std::string(what) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
  if (error == cudaErrorAssert) text += "; what stood still is on stderr, under jax_persistent";
  return text;
}

int Query(cudaDeviceAttr attribute, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) throw std::runtime_error(Describe("cudaDeviceGetAttribute", error));
  return value;
}

void Allow(const void* kernel, const DeviceFacts& facts) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, facts.shared_bytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// Blocks of the largest cluster that the current device can place: more than the portable 8 on some
// GPUs, fewer where a part of one is lent.
int LargestCluster(const DeviceFacts& facts) {
  const auto kernel = reinterpret_cast<const void*>(
      KernelsOf(CellKind::kLstm, Precision::kBfloat16).forward_cluster);
  Allow(kernel, facts);
  for (unsigned blocks = 16; blocks > 1; blocks /= 2) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {blocks, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(kMostWarps * kLanes);
    config.dynamicSmemBytes = facts.shared_bytes;
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

DeviceFacts FactsOf(int device) {
  DeviceFacts facts{};
  facts.cluster_blocks = 1;
  facts.architecture = 10 * Query(cudaDevAttrComputeCapabilityMajor, device) +
                       Query(cudaDevAttrComputeCapabilityMinor, device);
  // Without cooperative launches blocks that wait for each other might never meet.
  if (Query(cudaDevAttrCooperativeLaunch, device) != 0) {
    facts.processors = Query(cudaDevAttrMultiProcessorCount, device);
  }
  facts.shared_bytes = Query(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  facts.l2_bytes = Query(cudaDevAttrL2CacheSize, device);
  if (Query(cudaDevAttrClusterLaunch, device) != 0) facts.cluster_blocks = LargestCluster(facts);
  return facts;
}

// A stream of the GPU as cuda/launches.h's device; remembers the first thing that fails.
class StreamDevice {
 public:
  explicit StreamDevice(cudaStream_t stream) : stream_(stream) {}

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
    const auto set = [&](cudaFuncAttribute attribute, int value) {
      return Note("cudaFuncSetAttribute", cudaFuncSetAttribute(function, attribute, value));
    };
    // Always the device's most: another thread may set it between this and the launch.
    if (!set(cudaFuncAttributeMaxDynamicSharedMemorySize, ThisGpu().shared_bytes)) return false;
    if (cluster > kPortableCluster && !set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) {
      return false;
    }
    cudaLaunchAttribute attribute{};
    if (args.pass.cluster) {
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    } else {  // or an error: never a launch whose blocks cannot all be there
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(args.pass.threads());
    config.dynamicSmemBytes = args.pass.shared_bytes;
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

  cudaStream_t stream_;
  std::string error_;
};

template <class Arrays>
std::string EnqueueCall(const Call<Arrays>& call, void* stream, const Allocate& allocate) {
  const int64_t bytes = LayOutScratch(call).bytes;
  auto* const scratch = static_cast<unsigned char*>(bytes > 0 ? allocate(bytes) : nullptr);
  if (bytes > 0 && scratch == nullptr) {
    return "no memory for " + std::to_string(bytes) + " bytes of scratch";
  }
  StreamDevice device(static_cast<cudaStream_t>(stream));
  Run(call, scratch, device);
  return device.error();
}

}  // namespace

DeviceFacts ThisGpu() {
  constexpr int kMostDevices = 64;
  static std::mutex mutex;
  static std::array<DeviceFacts, kMostDevices> known{};
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) throw std::runtime_error(Describe("cudaGetDevice", error));
  if (device >= kMostDevices) return FactsOf(device);
  const std::lock_guard lock(mutex);
  if (known[device].architecture == 0) known[device] = FactsOf(device);
  return known[device];
}

DeviceFacts GpuOfOrdinal(int device) {
  int current = 0;
  cudaGetDevice(&current);
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) throw std::runtime_error(Describe("cudaSetDevice", error));
  const DeviceFacts facts = ThisGpu();
  cudaSetDevice(current);
  return facts;
}

std::string Enqueue(const Call<cpu::Forward>& call, void* stream, const Allocate& allocate) {
  return EnqueueCall(call, stream, allocate);
}
std::string Enqueue(const Call<cpu::Backward>& call, void* stream, const Allocate& allocate) {
  return EnqueueCall(call, stream, allocate);
}

}  // namespace jp::cuda
