// SPDX-License-Identifier: Apache-2.0
// Memory as a grid sees it: stores that other blocks see late, shared memory, and barriers that
// count the bytes that arrive there.
#pragma once

#include <utility>
#include <vector>

#include "tests/cuda/software_gpu/grid.h"

namespace jp::software_gpu {

class Memory {
 public:
  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;  // first, bytes

  // `global`: what may be read and written; empty: anything.
  Memory(Ranges global, bool delays_stores, int cluster,
         const std::vector<std::unique_ptr<Block>>& blocks, Dice& dice)
      : global_(std::move(global)),
        delays_stores_(delays_stores),
        cluster_(cluster),
        blocks_(blocks),
        dice_(dice) {}

  // What others do not see yet of a block's stores: `keep` of ten words on average stay so.
  void Deliver(Block& block, uint32_t keep = 0);
  void DeliverSome(Block& block);
  // Are stores to other blocks' shared memory under way?
  bool IsBusy() const { return !async_.empty(); }

  bool Load(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);  // true: give way
  void Store(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);
  void RedAdd(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);
  void InitByteBarrier(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);
  void ExpectBytes(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);
  bool TryWait(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);  // true: too early
  void StoreAsync(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc);

 private:
  struct AsyncStore {
    Block* block;
    uint32_t offset, barrier;
    uint32_t words[4];
  };

  void CheckGlobal(const Warp& warp, uint32_t pc, uint64_t address, int bytes);
  void StoreGlobal(Block& block, uint64_t address, const void* from, int bytes);

  const Ranges global_;
  size_t last_ = 0;  // of global_, that was used
  const bool delays_stores_;
  const int cluster_;
  const std::vector<std::unique_ptr<Block>>& blocks_;
  Dice& dice_;
  std::vector<AsyncStore> async_;
};

}  // namespace jp::software_gpu
