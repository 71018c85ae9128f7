// SPDX-License-Identifier: Apache-2.0
// The interpreter: one instruction of one warp at a time, all lanes at once.
#include "tests/cuda/software_gpu/machine.h"

#include <algorithm>
#include <cstring>

#include "tests/cuda/software_gpu/arithmetic.h"
#include "tests/cuda/software_gpu/collectives.h"
#include "tests/cuda/software_gpu/grid.h"
#include "tests/cuda/software_gpu/memory.h"

namespace jp::software_gpu {

void Fail(const Warp& warp, uint32_t pc, const std::string& what, Failure failure) {
  const Kernel& kernel = *warp.block->kernel;
  std::string where = kernel.name + ", block " + std::to_string(warp.block->index) + ", warp " +
                      std::to_string(warp.index);
  if (pc != kNone) where += ", line " + std::to_string(kernel.code[pc].line);
  throw Stop{failure, where + ": " + what};
}

namespace {

constexpr int kSlice = 4000;  // instructions of a warp before others run

class Machine {
 public:
  Machine(const Module& module, const Kernel& kernel, const void* parameters,
          const GridShape& shape, const RunOptions& options)
      : kernel_(kernel),
        shape_(shape),
        options_(options),
        dice_(options.seed),
        parameters_((kernel.parameter_bytes + 15) / 16 * 2),
        memory_(Allowed(module), options.delays_stores, shape.cluster, blocks_, dice_),
        clusters_(static_cast<size_t>((shape.blocks + shape.cluster - 1) / shape.cluster)) {
    std::memcpy(parameters_.data(), parameters, kernel.parameter_bytes);
    for (int i = 0; i < shape.blocks; ++i) MakeBlock(i);
  }

  RunResult Run() {
    RunResult result;
    try {
      RunAll();
    } catch (const Stop& stop) {
      result.failure = stop.failure;
      result.error = stop.error;
    }
    if (result.failure != Failure::kNone) {
      for (const auto& block : blocks_) memory_.Deliver(*block);
    }
    result.instructions = instructions_;
    return result;
  }

 private:
  // Global memory as the launch's options have it, and what belongs to the kernel.
  Memory::Ranges Allowed(const Module& module) const {
    Memory::Ranges ranges = options_.memory;
    if (ranges.empty()) return ranges;
    for (const auto& [bytes, size] : module.globals) {
      ranges.emplace_back(reinterpret_cast<uint64_t>(bytes.get()), size);
    }
    ranges.emplace_back(reinterpret_cast<uint64_t>(parameters_.data()),
                        parameters_.size() * sizeof(uint64_t));
    return ranges;
  }

  void MakeBlock(int index) {
    blocks_.push_back(std::make_unique<Block>());
    Block& block = *blocks_.back();
    block.kernel = &kernel_;
    block.index = index;
    block.shared_bytes = shape_.shared_bytes;
    block.memory.assign(shape_.shared_bytes + 256, 0xcd);
    block.guard = 128 - reinterpret_cast<uintptr_t>(block.memory.data()) % 128;
    for (int w = 0; w < shape_.threads / kLanes; ++w) {
      auto warp = std::make_unique<Warp>();
      warp->block = &block;
      warp->index = w;
      warp->r32.assign(size_t{kernel_.columns32} * kLanes, 0xcdcdcdcd);
      warp->local.assign(kernel_.local_bytes * kLanes, 0xcd);
      warp->r64.assign(size_t{kernel_.columns64} * kLanes, 0xcdcdcdcdcdcdcdcd);
      const auto fill = [&](uint32_t column, const auto& value) {
        if (column == kNone) return;
        for (int l = 0; l < kLanes; ++l) warp->Words(column)[l] = value(l);
      };
      for (const auto& [column, value] : kernel_.constants32) {
        fill(column, [v = value](int) { return v; });
      }
      for (const auto& [column, value] : kernel_.constants64) {
        std::fill_n(warp->Wide(column), kLanes, value);
      }
      fill(kernel_.tid, [&](int l) { return static_cast<uint32_t>(w * kLanes + l); });
      fill(kernel_.laneid, [](int l) { return static_cast<uint32_t>(l); });
      fill(kernel_.ctaid, [&](int) { return static_cast<uint32_t>(index); });
      fill(kernel_.ntid, [&](int) { return static_cast<uint32_t>(shape_.threads); });
      fill(kernel_.nctaid, [&](int) { return static_cast<uint32_t>(shape_.blocks); });
      if (kernel_.parameters != kNone) {
        std::fill_n(warp->Wide(kernel_.parameters), kLanes,
                    reinterpret_cast<uint64_t>(parameters_.data()));
      }
      all_.push_back(warp.get());
      block.warps.push_back(std::move(warp));
    }
  }

  void RunAll() {
    std::vector<Warp*> order = all_;
    while (!order.empty()) {
      for (size_t i = order.size(); i > 1; --i) {
        std::swap(order[i - 1], order[dice_.Roll(static_cast<uint32_t>(i))]);
      }
      bool moved = false;
      for (Warp* warp : order) {
        if (dice_.Roll(4) == 0) {  // held up
          moved = true;
          continue;
        }
        const uint64_t before = instructions_;
        RunWarp(*warp);
        moved |= instructions_ != before;
      }
      for (const auto& block : blocks_)
        memory_.DeliverSome(*block);  // of those that have ended, too
      std::erase_if(order, [](const Warp* warp) { return warp->done == kAll; });
      moved |= memory_.IsBusy();
      clock_ += options_.round_ns;
      if (!moved && !order.empty()) Fail(*order[0], kNone, "all warps wait for each other");
    }
    if (memory_.IsBusy()) throw Stop{Failure::kOther, "stores are under way after the end"};
    for (const auto& block : blocks_) memory_.Deliver(*block);
  }

  void RunWarp(Warp& warp) {
    if (warp.at_barrier) return;
    for (int budget = kSlice; budget > 0;) {
      const uint32_t runnable = ~(warp.done | warp.waiting);
      if (runnable == 0) {
        if (warp.done == kAll) return;
        CompleteCollective(warp);
        if (warp.at_barrier || warp.waiting != 0) return;
        continue;
      }
      // The lanes that run now, and where they would meet others.
      uint32_t pc = kNone, other = kNone;
      for (int l = 0; l < kLanes; ++l) {
        if (runnable >> l & 1) pc = std::min(pc, warp.pc[l]);
      }
      if (dice_.Roll(64) == 0) {
        const uint32_t first = dice_.Roll(kLanes);
        if (runnable >> first & 1) pc = warp.pc[first];
      }
      uint32_t mask = 0;
      for (int l = 0; l < kLanes; ++l) {
        if (!(runnable >> l & 1)) continue;
        if (warp.pc[l] == pc) {
          mask |= 1u << l;
        } else if (warp.pc[l] > pc) {
          other = std::min(other, warp.pc[l]);
        }
      }
      if (!RunGroup(warp, mask, pc, other, budget)) return;
    }
  }

  // Runs lanes that are together until they part, meet others, wait or yield; false: the warp is to
  // give way to others.
  bool RunGroup(Warp& warp, uint32_t mask, uint32_t pc, uint32_t other, int& budget) {
    const auto leave = [&](uint32_t lanes, uint32_t to) {
      for (int l = 0; l < kLanes; ++l) {
        if (lanes >> l & 1) warp.pc[l] = to;
      }
    };
    for (;;) {
      if (budget-- <= 0 || pc >= other) {
        leave(mask, pc);
        return budget > 0;
      }
      const Instruction& in = kernel_.code[pc];
      ++instructions_;
      uint32_t active = mask;
      if (in.guard != kNone) {
        const uint32_t* guard = warp.Words(in.guard);
        uint32_t set = 0;
        for (int l = 0; l < kLanes; ++l) set |= uint32_t{guard[l] != 0} << l;
        active &= in.guard_negated ? ~set : set;
      }
      if (in.op == Op::kBra) {
        if (active == mask) {
          pc = in.target;
          if (other != kNone) {  // those at the lowest go first
            leave(mask, pc);
            return true;
          }
        } else if (active == 0) {
          ++pc;
        } else {
          leave(active, in.target);
          leave(mask & ~active, pc + 1);
          return true;
        }
        continue;
      }
      if (active == 0) {
        ++pc;
        continue;
      }
      if (IsCollective(in.op)) {
        if (active != mask) Fail(warp, pc, "a collective that some lanes skip");
        leave(mask, pc);
        warp.waiting |= mask;
        return true;
      }
      if (in.op == Op::kRet) {
        warp.done |= active;
        leave(mask & ~active, pc + 1);
        return true;
      }
      const bool yields = Execute(warp, in, active, pc);
      ++pc;
      if (yields) {
        leave(mask, pc);
        return false;
      }
    }
  }

  static bool IsCollective(Op op) {
    return op == Op::kShfl || op == Op::kMma || op == Op::kWarpSync || op == Op::kBarSync ||
           op == Op::kClusterArrive || op == Op::kClusterWait;
  }

  // All lanes that are left wait at a collective: the same one, or the program is wrong.
  void CompleteCollective(Warp& warp) {
    const uint32_t pc = warp.pc[0];
    for (int l = 0; l < kLanes; ++l) {
      if (warp.done >> l & 1) Fail(warp, pc, "a collective after some lanes have ended");
      if (warp.pc[l] != pc) Fail(warp, pc, "lanes of a warp are at different collectives");
    }
    const Instruction& in = kernel_.code[pc];
    switch (in.op) {
      case Op::kShfl: ShuffleLanes(warp, in, pc); break;
      case Op::kMma: MultiplyMatrices(warp, in); break;
      case Op::kBarSync: return DoBarrier(warp, in, pc);
      case Op::kClusterArrive: {
        memory_.Deliver(*warp.block);
        Cluster& cluster = ClusterOf(warp);
        warp.cluster_phase = cluster.phase;
        if ((cluster.arrived += kLanes) == static_cast<uint32_t>(shape_.cluster * shape_.threads)) {
          cluster.arrived = 0;
          ++cluster.phase;
        }
        break;
      }
      case Op::kClusterWait:
        if (ClusterOf(warp).phase == warp.cluster_phase) return;  // and looks again
        break;
      default: break;
    }
    Release(warp);
  }

  void Release(Warp& warp) {
    warp.waiting = 0;
    warp.at_barrier = false;
    for (uint32_t& pc : warp.pc) ++pc;
    ++instructions_;
  }

  Cluster& ClusterOf(const Warp& warp) {
    return clusters_[static_cast<size_t>(warp.block->index / shape_.cluster)];
  }

  void DoBarrier(Warp& warp, const Instruction& in, uint32_t pc) {
    const uint32_t id = warp.Words(in.x[0])[0];
    const uint32_t count =
        in.x[1] == kNone ? static_cast<uint32_t>(shape_.threads) : warp.Words(in.x[1])[0];
    if (id >= kBarriers || count % kLanes != 0 || count == 0 ||
        count > static_cast<uint32_t>(shape_.threads)) {
      Fail(warp, pc, "bar.sync " + std::to_string(id) + ", " + std::to_string(count));
    }
    Block::Barrier& barrier = warp.block->barriers[id];
    barrier.warps.push_back(&warp);
    warp.at_barrier = true;
    barrier.arrived += kLanes;
    if (barrier.arrived < count) return;
    if (barrier.arrived > count) Fail(warp, pc, "bar.sync: warps expect different numbers");
    const std::vector<Warp*> warps = std::move(barrier.warps);
    barrier = {};
    for (Warp* each : warps) Release(*each);
  }

  // One instruction of these lanes. Whether the warp should give way to others.
  bool Execute(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    switch (in.op) {
      case Op::kClock: ForLanes(mask, [&](int l) { warp.Wide(in.x[0])[l] = clock_; }); return true;
      case Op::kLd: return memory_.Load(warp, in, mask, pc);
      case Op::kSt: memory_.Store(warp, in, mask, pc); return false;
      case Op::kRedAdd: memory_.RedAdd(warp, in, mask, pc); return false;
      case Op::kPrefetch: return false;
      case Op::kFence:
        if (in.release) memory_.Deliver(*warp.block);
        return false;
      case Op::kMbarrierInit: memory_.InitByteBarrier(warp, in, mask, pc); return false;
      case Op::kMbarrierExpect: memory_.ExpectBytes(warp, in, mask, pc); return false;
      case Op::kMbarrierTryWait: return memory_.TryWait(warp, in, mask, pc);
      case Op::kStAsync: memory_.StoreAsync(warp, in, mask, pc); return false;
      case Op::kAssertFail: AssertFail(warp, in, mask);
      case Op::kTrap: Fail(warp, pc, "trap");
      default:
        if (!Compute(warp, in, mask)) Fail(warp, pc, "an instruction without a meaning here");
        return false;
    }
  }

  // As the driver prints it: message, file, line, function, bytes of a character.
  [[noreturn]] void AssertFail(Warp& warp, const Instruction& in, uint32_t mask) {
    memory_.Deliver(*warp.block);
    int lane = 0;
    while (!(mask >> lane & 1)) ++lane;
    const auto at = [&](int i) { return warp.Wide(in.x[i])[lane]; };
    const auto text = [&](int i) { return std::string(reinterpret_cast<const char*>(at(i))); };
    throw Stop{Failure::kAssert, text(1) + ":" + std::to_string(at(2)) + ": " + text(3) +
                                     ": block: [" + std::to_string(warp.block->index) +
                                     ",0,0], thread: [" +
                                     std::to_string(warp.index * kLanes + lane) +
                                     ",0,0] Assertion `" + text(0) + "` failed."};
  }

  const Kernel& kernel_;
  const GridShape shape_;
  const RunOptions& options_;
  Dice dice_;
  std::vector<uint64_t> parameters_;
  std::vector<std::unique_ptr<Block>> blocks_;
  Memory memory_;
  std::vector<Warp*> all_;
  std::vector<Cluster> clusters_;
  uint64_t clock_ = 1, instructions_ = 0;
};

}  // namespace

RunResult RunGrid(const Module& module, const Kernel& kernel, const void* parameters,
                  const GridShape& shape, const RunOptions& options) {
  return Machine(module, kernel, parameters, shape, options).Run();
}

}  // namespace jp::software_gpu
