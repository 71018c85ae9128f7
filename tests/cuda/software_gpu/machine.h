// SPDX-License-Identifier: Apache-2.0
// Runs a grid of a PTX kernel on this thread: warps in a random order, each for a while, as far as
// what it waits for lets it.
//
// A lane has a program counter of its own. Lanes at the lowest one run together mostly; now and
// then others go first, as independent thread scheduling allows. What the PTX ISA leaves undefined
// ends the launch with an error: an access astray or not aligned to its width, lanes of a warp at
// different collectives, bytes that no barrier expects, stores that arrive after the end, and warps
// that wait for nothing.
//
// Plain and relaxed stores to global memory are seen by their own block at once and by others
// later, in any order, each word for itself, until a release. Stores to other blocks of a cluster
// arrive late, too.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda/software_gpu/ptx.h"

namespace jp::software_gpu {

struct GridShape {
  int blocks, threads, cluster;
  size_t shared_bytes;
};

struct RunOptions {
  uint64_t seed = 1;
  bool delays_stores = true;
  uint64_t round_ns = 10'000;  // of %globaltimer, for a round of all warps
  // Where global memory may be read and written; empty: anywhere.
  std::vector<std::pair<uint64_t, uint64_t>> memory;  // first, bytes
};

enum class Failure { kNone, kAssert, kAddress, kAlignment, kOther };

struct RunResult {
  Failure failure = Failure::kNone;
  std::string error;  // in words; empty: none
  uint64_t instructions = 0;
};

// `parameters` has the kernel's parameter_bytes.
RunResult RunGrid(const Module& module, const Kernel& kernel, const void* parameters,
                  const GridShape& shape, const RunOptions& options);

}  // namespace jp::software_gpu
