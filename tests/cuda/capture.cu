// SPDX-License-Identifier: Apache-2.0
// Can launches like the kernels' be captured into a CUDA graph, as XLA's command buffers do? A
// cooperative one whose blocks all wait for each other, and one of clusters. Prints a line for each
// and exits with the number of those that failed.
//
//   nvcc -std=c++20 -arch=sm_90 tests/cuda/capture.cu -o capture && ./capture
#include <cooperative_groups.h>

#include <cstdio>

namespace {

constexpr int kThreads = 256, kSteps = 100, kReplays = 20, kCluster = 16;

// Every block adds its rank at every step, when all blocks are past the step before.
__global__ void MeetInGrid(unsigned* sum, unsigned* counter) {
  for (unsigned step = 1; step <= kSteps; ++step) {
    if (threadIdx.x == 0) {
      atomicAdd(sum, blockIdx.x);
      __threadfence();
      atomicAdd(counter, 1u);
      while (atomicAdd(counter, 0u) < step * gridDim.x) {
      }
    }
    __syncthreads();
  }
}

__global__ void MeetInCluster(unsigned* sum, unsigned* /*counter*/) {
  const auto cluster = cooperative_groups::this_cluster();
  for (int step = 0; step < kSteps; ++step) {
    if (threadIdx.x == 0) atomicAdd(sum, blockIdx.x);
    cluster.sync();
  }
}

bool Good(const char* what, cudaError_t error) {
  if (error != cudaSuccess) std::printf("  %s: %s\n", what, cudaGetErrorString(error));
  return error == cudaSuccess;
}

bool Replays(const void* kernel, const cudaLaunchAttribute& attribute, int blocks) {
  unsigned* memory = nullptr;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t program;
  if (!Good("malloc", cudaMalloc(&memory, 2 * sizeof(unsigned))) ||
      !Good("stream", cudaStreamCreate(&stream))) {
    return false;
  }
  unsigned *sum = memory, *counter = memory + 1;
  void* arguments[] = {&sum, &counter};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  cudaLaunchAttribute copy = attribute;
  config.attrs = &copy;
  config.numAttrs = 1;
  if (!Good("begin", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal))) {
    return false;
  }
  const bool filled = Good("memset", cudaMemsetAsync(memory, 0, 2 * sizeof(unsigned), stream));
  const bool launched = Good("launch", cudaLaunchKernelExC(&config, kernel, arguments));
  if (!Good("end", cudaStreamEndCapture(stream, &graph)) || !filled || !launched) return false;
  if (!Good("instantiate", cudaGraphInstantiate(&program, graph, 0))) return false;
  for (int i = 0; i < kReplays; ++i) {
    if (!Good("replay", cudaGraphLaunch(program, stream))) return false;
  }
  unsigned found = 0;
  if (!Good("wait", cudaStreamSynchronize(stream)) ||
      !Good("copy", cudaMemcpy(&found, sum, sizeof found, cudaMemcpyDeviceToHost))) {
    return false;
  }
  const unsigned expected = kSteps * static_cast<unsigned>(blocks) * (blocks - 1) / 2;
  if (found != expected) std::printf("  expected %u, got %u\n", expected, found);
  return found == expected;
}

}  // namespace

int main() {
  int processors = 0;
  if (!Good("device", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0))) {
    return 2;
  }
  cudaLaunchAttribute cooperative{}, cluster{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kCluster, 1, 1};
  const auto in_cluster = reinterpret_cast<const void*>(MeetInCluster);
  if (!Good("cluster of 16",
            cudaFuncSetAttribute(in_cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1))) {
    return 2;
  }
  const bool grid = Replays(reinterpret_cast<const void*>(MeetInGrid), cooperative, processors);
  std::printf("a cooperative launch of %d blocks in a graph: %s\n", processors,
              grid ? "runs" : "FAILS");
  const bool clusters = Replays(in_cluster, cluster, 2 * kCluster);
  std::printf("a launch of clusters of %d in a graph: %s\n", kCluster, clusters ? "runs" : "FAILS");
  return !grid + !clusters;
}
