// SPDX-License-Identifier: Apache-2.0
// What the kernels' launches ask of a GPU. Can launches whose blocks all wait for each other,
// cooperative or in clusters, be captured into a CUDA graph, as XLA's command buffers do? And can
// two cooperative ones be launched on two streams, or does each get some of the processors and wait
// for the rest? Prints a line for each and exits with the number of those that failed.
//
//   nvcc -std=c++20 -arch=sm_90 tests/cuda/capture.cu -o capture && ./capture
#include <cooperative_groups.h>

#include <cstdio>

namespace {

constexpr int kThreads = 256, kSteps = 1000, kReplays = 20, kPairs = 50, kCluster = 16;
constexpr size_t kShared = 120 << 10;             // more than half: a processor holds one block
constexpr long long kMostCycles = 2'000'000'000;  // a second or so: then a block gives up

struct Meeting {
  unsigned sum, counter, late;      // late: blocks that gave up
  unsigned long long began, ended;  // nanoseconds, by block 0
};

__device__ unsigned long long Nanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Every block adds its rank at every step, when all blocks are past the step before.
__global__ void MeetInGrid(Meeting* meeting) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) meeting->began = Nanoseconds();
  const long long began = clock64();
  for (unsigned step = 1; step <= kSteps; ++step) {
    atomicAdd(&meeting->sum, blockIdx.x);
    __threadfence();
    atomicAdd(&meeting->counter, 1u);
    while (atomicAdd(&meeting->counter, 0u) < step * gridDim.x) {
      if (clock64() - began > kMostCycles) {
        atomicAdd(&meeting->late, 1u);
        return;
      }
    }
  }
  if (blockIdx.x == 0) meeting->ended = Nanoseconds();
}

// The hardware's barrier, for which all blocks of a cluster are there.
__global__ void MeetInCluster(Meeting* meeting) {
  const auto cluster = cooperative_groups::this_cluster();
  for (int step = 0; step < kSteps; ++step) {
    if (threadIdx.x == 0) atomicAdd(&meeting->sum, blockIdx.x);
    cluster.sync();
  }
}

bool Good(const char* what, cudaError_t error) {
  if (error != cudaSuccess) std::printf("  %s: %s\n", what, cudaGetErrorString(error));
  return error == cudaSuccess;
}

struct Launch {
  const void* kernel;
  cudaLaunchAttribute attribute{};
  int blocks;
  size_t shared = 0;
  Meeting* meeting = nullptr;
  cudaStream_t stream{};

  bool Prepare() {
    return Good("malloc", cudaMalloc(&meeting, sizeof *meeting)) &&
           Good("stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  bool Clear() { return Good("memset", cudaMemsetAsync(meeting, 0, sizeof *meeting, stream)); }
  bool Start() {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    void* arguments[] = {&meeting};
    return Good("launch", cudaLaunchKernelExC(&config, kernel, arguments));
  }
  // Did all blocks meet?
  bool Met(Meeting& found) {
    if (!Good("wait", cudaStreamSynchronize(stream)) ||
        !Good("copy", cudaMemcpy(&found, meeting, sizeof found, cudaMemcpyDeviceToHost))) {
      return false;
    }
    const unsigned expected = kSteps * static_cast<unsigned>(blocks) * (blocks - 1) / 2;
    if (found.late > 0) std::printf("  %u of %d blocks gave up\n", found.late, blocks);
    if (found.sum != expected) std::printf("  expected %u, got %u\n", expected, found.sum);
    return found.late == 0 && found.sum == expected;
  }
};

bool Replays(Launch launch) {
  cudaGraph_t graph;
  cudaGraphExec_t program;
  if (!launch.Prepare() ||
      !Good("begin", cudaStreamBeginCapture(launch.stream, cudaStreamCaptureModeThreadLocal))) {
    return false;
  }
  const bool launched = launch.Clear() && launch.Start();
  if (!Good("end", cudaStreamEndCapture(launch.stream, &graph)) || !launched) return false;
  if (!Good("instantiate", cudaGraphInstantiate(&program, graph, 0))) return false;
  Meeting found{};
  for (int i = 0; i < kReplays; ++i) {
    if (!Good("replay", cudaGraphLaunch(program, launch.stream))) return false;
  }
  return launch.Met(found);
}

// Two at once, again and again; counts how often both were at work at one time.
bool Pairs(Launch a, Launch b, int& together) {
  if (!a.Prepare() || !b.Prepare()) return false;
  for (int i = 0; i < kPairs; ++i) {
    if (!a.Clear() || !b.Clear() || !Good("clear", cudaDeviceSynchronize())) return false;
    Meeting of_a{}, of_b{};
    const bool started = a.Start() && b.Start();
    const bool a_met = a.Met(of_a), b_met = b.Met(of_b);
    if (!started || !a_met || !b_met) return false;
    together += of_a.began < of_b.ended && of_b.began < of_a.ended;
  }
  return true;
}

}  // namespace

int main() {
  int processors = 0;
  const auto in_grid = reinterpret_cast<const void*>(MeetInGrid);
  const auto in_cluster = reinterpret_cast<const void*>(MeetInCluster);
  if (!Good("device", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0)) ||
      !Good("shared memory",
            cudaFuncSetAttribute(in_grid, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared)) ||
      !Good("cluster of 16",
            cudaFuncSetAttribute(in_cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1))) {
    return 2;
  }
  cudaLaunchAttribute cooperative{}, cluster{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kCluster, 1, 1};
  int failures = 0;
  const auto tell = [&](const char* what, int number, bool good) {
    std::printf("%s of %d blocks: %s\n", what, number, good ? "yes" : "NO");
    failures += !good;
  };
  const auto of = [&](int blocks) { return Launch{in_grid, cooperative, blocks, kShared}; };

  tell("in a graph, a cooperative launch", processors, Replays(of(processors)));
  tell("in a graph, clusters", kCluster, Replays({in_cluster, cluster, 2 * kCluster}));
  // Those that fit together, and those of which one must wait for the other's end.
  for (const int blocks : {processors / 2, processors * 3 / 4, processors}) {
    int together = 0;
    const bool good = Pairs(of(blocks), of(blocks), together);
    tell("on two streams, cooperative launches", blocks, good);
    std::printf("  at work at one time in %d of %d cases\n", together, kPairs);
  }
  return failures;
}
