// SPDX-License-Identifier: Apache-2.0
// Kernels that forget a barrier where they are told to: planted_races KERNEL [planted]. In a build
// with ThreadSanitizer each must be reported with "planted", and pass without.
#include <cstdint>
#include <cstring>
#include <iostream>
#include <vector>

#include "cuda/arch.h"

namespace {

using namespace jp::cuda;

struct Args {
  uint32_t* words;
  bool planted;
};

// Lanes read what their neighbours wrote; shuffles order no memory.
JP_KERNEL(32) Lanes(JP_CONSTANT Args args) {
  auto* const shared = reinterpret_cast<int*>(arch::SharedMemory());
  shared[arch::Lane()] = arch::Lane();
  if (!args.planted) arch::SyncWarp();
  int sum = shared[arch::Lane() ^ 1];
  sum += arch::ShuffleXor(sum, 1);
  args.words[arch::Lane()] = static_cast<uint32_t>(sum);
}

// A warp reads what the other wrote; a warp's own barrier is not enough.
JP_KERNEL(64) Warps(JP_CONSTANT Args args) {
  auto* const shared = reinterpret_cast<int*>(arch::SharedMemory());
  shared[arch::ThreadIndex()] = arch::ThreadIndex();
  arch::SyncWarp();
  if (!args.planted) arch::SyncBlock();
  args.words[arch::ThreadIndex()] = static_cast<uint32_t>(shared[arch::ThreadIndex() ^ 32]);
}

// A flag that is relaxed says nothing of the plain memory beside it.
JP_KERNEL(32) Blocks(JP_CONSTANT Args args) {
  uint32_t* const flag = args.words + 4;
  if (arch::ThreadIndex() != 0) return;
  if (arch::BlockIndex() == 0) {
    args.words[0] = 7;
    args.planted ? arch::StoreRelaxed(flag, 1) : arch::AddRelease(flag, 1);
  } else {
    while ((args.planted ? arch::LoadRelaxed(flag).word[0] : arch::LoadAcquire(flag)) == 0) {
      arch::Pause();
    }
    args.words[1] = args.words[0];
  }
}

// Asynchronous stores have arrived when the barrier says so, not when the cluster has met.
JP_KERNEL(32) Bytes(JP_CONSTANT Args args) {
  auto* const barrier = reinterpret_cast<uint64_t*>(arch::SharedMemory());
  auto* const vectors = reinterpret_cast<Vec16B*>(arch::SharedMemory() + 128);
  if (arch::ThreadIndex() == 0) {
    arch::InitByteBarrier(barrier);
    arch::ArriveExpectingBytes(barrier, kLanes * sizeof(Vec16B));
  }
  arch::FenceByteBarrierInit();
  arch::SyncCluster();
  const int peer = arch::BlockIndex() ^ 1;
  const auto index = static_cast<uint32_t>(arch::ThreadIndex());
  arch::StoreAsync(arch::MapToRank(vectors + index, peer), {index, index, index, index},
                   arch::MapToRank(barrier, peer));
  if (args.planted) {
    args.words[arch::BlockIndex() * kLanes + arch::ThreadIndex()] = vectors[index ^ 1].word[1];
    while (!arch::TryWait(barrier, 0)) {
    }
  } else {
    while (!arch::TryWait(barrier, 0)) {
    }
    args.words[arch::BlockIndex() * kLanes + arch::ThreadIndex()] = vectors[index ^ 1].word[1];
  }
  arch::SyncCluster();
}

}  // namespace

int main(int count, char** names) {
  const std::string name = count > 1 ? names[1] : "";
  std::vector<Vec16B> memory(16);
  const Args args{memory[0].word, count > 2 && std::strcmp(names[2], "planted") == 0};
  std::string said = "no such kernel";
  if (name == "lanes") said = emulator::Launch(Lanes, args, {1, 1, 32, 128});
  if (name == "warps") said = emulator::Launch(Warps, args, {1, 1, 64, 256});
  if (name == "blocks") said = emulator::Launch(Blocks, args, {2, 1, 32, 0});
  if (name == "bytes") said = emulator::Launch(Bytes, args, {2, 2, 32, 1024});
  if (!said.empty()) std::cerr << said << "\n";
  return !said.empty();
}
