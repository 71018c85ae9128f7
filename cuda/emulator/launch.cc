// SPDX-License-Identifier: Apache-2.0
// A launch: a thread of the system for each warp, and what they complained of.
#include "cuda/emulator/launch.h"

#include <exception>
#include <thread>
#include <vector>

#include "cuda/emulator/grid.h"
#include "cuda/emulator/warp.h"

namespace jp::cuda::emulator {

std::string Run(const std::function<void()>& thread, const LaunchShape& shape,
                const LaunchOptions& options) {
  const bool whole = shape.threads > 0 && shape.threads <= 1024 && shape.threads % kLanes == 0;
  const bool grouped = shape.cluster > 0 && shape.blocks > 0 && shape.blocks % shape.cluster == 0;
  if (!whole || !grouped) {
    return "a launch takes blocks of whole warps, up to 1024 threads, and whole clusters; got " +
           std::to_string(shape.blocks) + " blocks of " + std::to_string(shape.threads) +
           " threads in clusters of " + std::to_string(shape.cluster);
  }
  Grid grid(shape, options);
  std::vector<std::unique_ptr<Warp>> warps;
  for (const auto& block : grid.blocks) {
    for (int i = 0; i < shape.threads / kLanes; ++i) {
      warps.push_back(std::make_unique<Warp>(grid, *block, i));
    }
  }
  std::vector<std::thread> threads;
  try {
    for (const auto& warp : warps) {
      threads.emplace_back([&thread, warp = warp.get()] { warp->Run(thread); });
    }
  } catch (const std::exception& error) {  // those that have started would wait for the rest
    grid.Fail(std::string("no thread for a warp: ") + error.what());
  }
  for (std::thread& started : threads) started.join();
  for (const auto& block : grid.blocks) {
    if (!block->Intact()) {
      grid.Fail("block " + std::to_string(block->index) + " wrote beside its shared memory");
    }
  }
  return grid.complaint();
}

}  // namespace jp::cuda::emulator
