// SPDX-License-Identifier: Apache-2.0
// Running a kernel on this machine's CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

namespace jp::cuda::emulator {

struct LaunchShape {
  int blocks;
  int cluster;  // blocks of a cluster, 1 if none
  int threads;  // of a block, whole warps
  size_t shared_bytes;
};

struct LaunchOptions {
  // Not 0: blocks are held up at random where they wait, store or meet, for up to max_delay_us, and
  // asynchronous stores arrive late and in any order. The seed fixes each thread's dice, not what
  // the system's scheduler does.
  uint32_t jitter_seed = 0;
  int max_delay_us = 200;
  // Nothing that this block stores for others reaches them; -1: none is so unlucky.
  int lost_block = -1;
  // So much seems to pass, besides, between two looks of a lane at the clock: as under a debugger.
  uint64_t clock_leap_ns = 0;
  // How long a warp may wait for others before the launch is ended.
  double timeout_seconds = 60;
};

// Runs `thread` as every thread of every block, all of them resident at once. Empty when all have
// ended, or what a trap or the emulator said: the first complaint ends the launch. Kernels may not
// be noexcept, since it ends them with an exception. ThreadSanitizer takes every thread of a launch
// for one of its own: it allows some 8000, and takes seconds and gigabytes for half of that.
std::string Run(const std::function<void()>& thread, const LaunchShape& shape,
                const LaunchOptions& options);

template <class Args>
std::string Launch(void (*kernel)(Args), const std::type_identity_t<Args>& args,
                   const LaunchShape& shape, const LaunchOptions& options = {}) {
  return Run([&] { kernel(args); }, shape, options);
}

}  // namespace jp::cuda::emulator
