// SPDX-License-Identifier: Apache-2.0
// The interpreter: one instruction of one warp at a time, all lanes at once.
#include "tests/cuda/software_gpu/machine.h"

#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>

#include "tests/cuda/software_gpu/numbers.h"

namespace jp::software_gpu {
namespace {

constexpr int kLanes = 32;
constexpr uint32_t kAll = ~uint32_t{0};
constexpr uint32_t kRankShift = 24;  // an address in a cluster: rank + 1, then 24 bits of offset
constexpr int kSlice = 4000;         // instructions of a warp before others run
constexpr int kBarriers = 16;

struct Stop {  // thrown to end the launch
  Failure failure;
  std::string error;
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t Roll(uint32_t sides) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 33) % sides;
  }

 private:
  uint64_t state_;
};

// Of one word of a block's stores that others do not see yet.
struct Pending {
  uint32_t value, bytes;  // bytes: a bit for each that was written
};

// An mbarrier: what is in memory is opaque to programs.
struct ByteBarrier {
  int64_t count = 0, arrivals = 0, bytes = 0;
  uint64_t phase = 0;

  void Advance() {
    if (arrivals != 0 || bytes != 0) return;
    ++phase;
    arrivals = count;
  }
};

struct Block;

struct Warp {
  Block* block = nullptr;
  int index = 0;
  std::vector<uint32_t> r32;  // columns of 32 lanes
  std::vector<uint64_t> r64;
  std::array<uint32_t, kLanes> pc{};
  uint32_t done = 0;     // lanes that have ended
  uint32_t waiting = 0;  // lanes at a collective, for the others
  bool at_barrier = false;
  uint64_t cluster_phase = 0;
};

struct Block {
  int index = 0;
  std::vector<unsigned char> memory;
  size_t guard = 0;  // bytes before the shared memory, for its alignment
  std::vector<std::unique_ptr<Warp>> warps;
  struct Barrier {
    uint32_t arrived = 0;
    std::vector<Warp*> warps;
  } barriers[kBarriers];
  std::map<uint32_t, ByteBarrier> byte_barriers;
  std::unordered_map<uint64_t, Pending> stores;  // by the address of a word

  unsigned char* shared() { return memory.data() + guard; }
};

struct Cluster {
  uint32_t arrived = 0;
  uint64_t phase = 0;
};

struct AsyncStore {
  Block* block;
  uint32_t offset, barrier;
  uint32_t words[4];
};

template <class T>
struct Stored {  // how a column holds a T
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static T From(Word word) {
    if constexpr (std::is_same_v<T, float>) {
      return FromBits(word);
    } else {
      return static_cast<T>(word);
    }
  }
  static Word To(T value) {
    if constexpr (std::is_same_v<T, float>) {
      return ToBits(value);
    } else if constexpr (sizeof(T) == 8) {
      return static_cast<uint64_t>(value);
    } else {
      return static_cast<uint32_t>(static_cast<std::make_unsigned_t<T>>(value));
    }
  }
};

// f with a value of the C++ type, for integers of 16 bits on, and floats.
template <class F>
void WithType(Type type, const F& f) {
  switch (type) {
    case Type::kPred:
    case Type::kB8: return f(uint8_t{});
    case Type::kS8: return f(int8_t{});
    case Type::kB16: return f(uint16_t{});
    case Type::kS16: return f(int16_t{});
    case Type::kB32: return f(uint32_t{});
    case Type::kS32: return f(int32_t{});
    case Type::kB64: return f(uint64_t{});
    case Type::kS64: return f(int64_t{});
    case Type::kF32: return f(float{});
  }
}

template <class T>
T Wrap(auto value) {
  return static_cast<T>(value);
}

// Rounded towards minus infinity; not inlined into code that assumes another rounding.
__attribute__((noinline)) float FmaDown(float a, float b, float c) {
  volatile float x = a, y = b, z = c;
  std::fesetround(FE_DOWNWARD);
  volatile float result = std::fma(x, y, z);
  std::fesetround(FE_TONEAREST);
  return result;
}

class Machine {
 public:
  Machine(const Module& module, const Kernel& kernel, const void* parameters,
          const GridShape& shape, const RunOptions& options)
      : kernel_(kernel), shape_(shape), options_(options), dice_(options.seed) {
    parameters_.resize((kernel.parameter_bytes + 15) / 16 * 2);
    std::memcpy(parameters_.data(), parameters, kernel.parameter_bytes);
    memory_ = options.memory;
    if (!memory_.empty()) {
      for (const auto& [bytes, size] : module.globals) {
        memory_.emplace_back(reinterpret_cast<uint64_t>(bytes.get()), size);
      }
      memory_.emplace_back(reinterpret_cast<uint64_t>(parameters_.data()),
                           parameters_.size() * sizeof(uint64_t));
    }
    clusters_.resize(static_cast<size_t>((shape.blocks + shape.cluster - 1) / shape.cluster));
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
      for (const auto& block : blocks_) Deliver(*block, 0);
    }
    result.instructions = instructions_;
    return result;
  }

 private:
  void MakeBlock(int index) {
    blocks_.push_back(std::make_unique<Block>());
    Block& block = *blocks_.back();
    block.index = index;
    block.memory.assign(shape_.shared_bytes + 256, 0xcd);
    block.guard = 128 - reinterpret_cast<uintptr_t>(block.memory.data()) % 128;
    for (int w = 0; w < shape_.threads / kLanes; ++w) {
      auto warp = std::make_unique<Warp>();
      warp->block = &block;
      warp->index = w;
      warp->r32.assign(size_t{kernel_.columns32} * kLanes, 0xcdcdcdcd);
      warp->r64.assign(size_t{kernel_.columns64} * kLanes, 0xcdcdcdcdcdcdcdcd);
      const auto fill = [&](uint32_t column, const auto& value) {
        if (column == kNone) return;
        for (int l = 0; l < kLanes; ++l) warp->r32[column * kLanes + l] = value(l);
      };
      for (const auto& [column, value] : kernel_.constants32) {
        fill(column, [v = value](int) { return v; });
      }
      for (const auto& [column, value] : kernel_.constants64) {
        std::fill_n(&warp->r64[size_t{column} * kLanes], kLanes, value);
      }
      fill(kernel_.tid, [&](int l) { return static_cast<uint32_t>(w * kLanes + l); });
      fill(kernel_.laneid, [](int l) { return static_cast<uint32_t>(l); });
      fill(kernel_.ctaid, [&](int) { return static_cast<uint32_t>(index); });
      fill(kernel_.ntid, [&](int) { return static_cast<uint32_t>(shape_.threads); });
      fill(kernel_.nctaid, [&](int) { return static_cast<uint32_t>(shape_.blocks); });
      if (kernel_.parameters != kNone) {
        std::fill_n(&warp->r64[size_t{kernel_.parameters} * kLanes], kLanes,
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
      for (const auto& block : blocks_) DeliverSome(*block);  // of those that have ended, too
      std::erase_if(order, [](const Warp* warp) { return warp->done == kAll; });
      moved |= !async_.empty();
      clock_ += options_.round_ns;
      if (!moved && !order.empty()) Fail(*order[0], kNone, "all warps wait for each other");
    }
    if (!async_.empty()) throw Stop{Failure::kOther, "stores are under way after the end"};
    for (const auto& block : blocks_) Deliver(*block, 0);
  }

  [[noreturn]] void Fail(const Warp& warp, uint32_t pc, const std::string& what,
                         Failure failure = Failure::kOther) const {
    std::string where = kernel_.name + ", block " + std::to_string(warp.block->index) + ", warp " +
                        std::to_string(warp.index);
    if (pc != kNone) where += ", line " + std::to_string(kernel_.code[pc].line);
    throw Stop{failure, where + ": " + what};
  }

  // ---- Memory

  // What others do not see yet of a block's stores: `keep` of ten words on average stay so.
  void Deliver(Block& block, uint32_t keep) {
    for (auto it = block.stores.begin(); it != block.stores.end();) {
      if (keep != 0 && dice_.Roll(10) < keep) {
        ++it;
        continue;
      }
      auto* bytes = reinterpret_cast<unsigned char*>(it->first);
      unsigned char value[4];
      std::memcpy(value, &it->second.value, 4);
      for (int i = 0; i < 4; ++i) {
        if (it->second.bytes >> i & 1) bytes[i] = value[i];
      }
      it = block.stores.erase(it);
    }
  }

  void DeliverSome(Block& block) {
    if (!block.stores.empty() && dice_.Roll(2) == 0) Deliver(block, 5);
    for (size_t i = 0; i < async_.size();) {
      if (dice_.Roll(3) != 0) {
        ++i;
        continue;
      }
      const AsyncStore store = async_[i];
      async_[i] = async_.back();
      async_.pop_back();
      std::memcpy(store.block->shared() + store.offset, store.words, sizeof store.words);
      ByteBarrier& barrier = store.block->byte_barriers.at(store.barrier);
      barrier.bytes -= sizeof store.words;
      barrier.Advance();
    }
  }

  void StoreGlobal(Block& block, uint64_t address, const void* from, int bytes) {
    if (!options_.delays_stores) {
      std::memcpy(reinterpret_cast<void*>(address), from, static_cast<size_t>(bytes));
      return;
    }
    const auto* value = static_cast<const unsigned char*>(from);
    for (int i = 0; i < bytes; ++i) {
      const uint64_t at = address + static_cast<uint64_t>(i);
      Pending& word = block.stores[at & ~uint64_t{3}];
      const int shift = static_cast<int>(at & 3);
      word.value = (word.value & ~(uint32_t{0xff} << 8 * shift)) | uint32_t{value[i]} << 8 * shift;
      word.bytes |= 1u << shift;
    }
  }

  void LoadGlobal(const Block& block, uint64_t address, void* to, int bytes) const {
    std::memcpy(to, reinterpret_cast<const void*>(address), static_cast<size_t>(bytes));
    if (block.stores.empty()) return;
    for (int i = 0; i < bytes; ++i) {
      const uint64_t at = address + static_cast<uint64_t>(i);
      const auto found = block.stores.find(at & ~uint64_t{3});
      if (found == block.stores.end()) continue;
      const int shift = static_cast<int>(at & 3);
      if (found->second.bytes >> shift & 1) {
        static_cast<unsigned char*>(to)[i] =
            static_cast<unsigned char>(found->second.value >> 8 * shift);
      }
    }
  }

  bool IsShared(Block& block, uint64_t address) const {
    const auto begin = reinterpret_cast<uint64_t>(block.shared());
    return address >= begin && address < begin + shape_.shared_bytes;
  }

  void CheckAligned(const Warp& warp, uint32_t pc, uint64_t address, int bytes) const {
    if (address % static_cast<uint64_t>(bytes) == 0) return;
    Fail(warp, pc, "an access of " + std::to_string(bytes) + " bytes is not aligned to them",
         Failure::kAlignment);
  }

  uint32_t SharedOffset(const Warp& warp, uint32_t pc, uint64_t offset, int bytes) const {
    offset &= 0xffffffff;
    CheckAligned(warp, pc, offset, bytes);
    if (offset + static_cast<uint64_t>(bytes) > shape_.shared_bytes) {
      Fail(warp, pc, "an access past the end of shared memory", Failure::kAddress);
    }
    return static_cast<uint32_t>(offset);
  }

  void CheckGlobal(const Warp& warp, uint32_t pc, uint64_t address, int bytes) const {
    CheckAligned(warp, pc, address, bytes);
    if (address < 4096) Fail(warp, pc, "an access to a null pointer", Failure::kAddress);
    if (memory_.empty()) return;
    const auto size = static_cast<uint64_t>(bytes);
    for (const auto& [first, length] : memory_) {
      if (address >= first && address + size <= first + length) return;
    }
    Fail(warp, pc, "an access astray", Failure::kAddress);
  }

  // ---- Warps

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
        const uint32_t* guard = &warp.r32[size_t{in.guard} * kLanes];
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
      case Op::kShfl: DoShuffle(warp, in, pc); break;
      case Op::kMma: DoMma(warp, in); break;
      case Op::kBarSync: return DoBarrier(warp, in, pc);
      case Op::kClusterArrive: {
        Deliver(*warp.block, 0);
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
    const uint32_t id = warp.r32[size_t{in.x[0]} * kLanes];
    const uint32_t count = in.x[1] == kNone ? static_cast<uint32_t>(shape_.threads)
                                            : warp.r32[size_t{in.x[1]} * kLanes];
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

  void DoShuffle(Warp& warp, const Instruction& in, uint32_t pc) {
    uint32_t* to = &warp.r32[size_t{in.x[0]} * kLanes];
    const uint32_t* value = &warp.r32[size_t{in.x[1]} * kLanes];
    const uint32_t* lane = &warp.r32[size_t{in.x[2]} * kLanes];
    const uint32_t* clamp = &warp.r32[size_t{in.x[3]} * kLanes];
    const uint32_t* members = &warp.r32[size_t{in.x[4]} * kLanes];
    uint32_t result[kLanes];
    for (uint32_t l = 0; l < kLanes; ++l) {
      if (members[l] != kAll || clamp[l] != 31) Fail(warp, pc, "shfl of a part of a warp");
      uint32_t from = lane[l] & 31;
      if (static_cast<Shuffle>(in.kind) == Shuffle::kBfly) from = l ^ from;
      if (static_cast<Shuffle>(in.kind) == Shuffle::kUp) from = l >= from ? l - from : l;
      if (static_cast<Shuffle>(in.kind) == Shuffle::kDown) from = l + from < 32 ? l + from : l;
      result[l] = value[from];
      if (in.x[5] != kNone) warp.r32[size_t{in.x[5]} * kLanes + l] = 1;
    }
    std::copy_n(result, kLanes, to);
  }

  // PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8": lane = 4 group + t. A word has
  // one tf32 or two 16-bit values, of neighbours in k.
  void DoMma(Warp& warp, const Instruction& in) {
    const auto kind = static_cast<Factors>(in.kind);
    const int per_word = kind == Factors::kTf32 ? 1 : 2, depth = 8 * per_word;
    const auto at = [&](int operand, int lane) -> uint32_t& {
      return warp.r32[size_t{in.x[operand]} * kLanes + static_cast<size_t>(lane)];
    };
    const auto value = [&](uint32_t word, int i) {
      if (kind == Factors::kTf32) return FromBits(word & ~uint32_t{0x1fff});
      const auto half = static_cast<uint16_t>(word >> 16 * i);
      return kind == Factors::kBfloat16 ? FromBits(uint32_t{half} << 16) : FromFloat16(half);
    };
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane / 4, t = lane % 4;
      for (int word = 0; word < 4; ++word) {
        for (int i = 0; i < per_word; ++i) {
          const int row = group + word % 2 * 8, k = word / 2 * 4 * per_word + t * per_word + i;
          a[row][k] = value(at(4 + word, lane), i);
          if (word < 2)
            b[word * 4 * per_word + t * per_word + i][group] = value(at(8 + word, lane), i);
        }
        c[group + word / 2 * 8][2 * t + word % 2] = FromBits(at(10 + word, lane));
      }
    }
    for (int m = 0; m < 16; ++m) {
      float sum[8];
      std::copy_n(c[m], 8, sum);
      for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < 8; ++n) sum[n] += a[m][k] * b[k][n];
      }
      std::copy_n(sum, 8, c[m]);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) at(i, lane) = ToBits(c[group + i / 2 * 8][2 * t + i % 2]);
    }
  }

  // ---- Instructions of a lane alone

  uint32_t* Words(Warp& warp, uint32_t column) { return &warp.r32[size_t{column} * kLanes]; }
  template <class Word>
  Word* ColumnOf(Warp& warp, uint32_t column) {
    if constexpr (sizeof(Word) == 8) {
      return &warp.r64[size_t{column} * kLanes];
    } else {
      return &warp.r32[size_t{column} * kLanes];
    }
  }

  template <class Word>
  static void Blend(Word* to, const Word* from, uint32_t mask) {
    if (mask == kAll) {
      std::memcpy(to, from, kLanes * sizeof(Word));
      return;
    }
    for (int l = 0; l < kLanes; ++l) {
      if (mask >> l & 1) to[l] = from[l];
    }
  }

  // to = f(operands...), whose columns are x[1], x[2], ...
  template <class To, class... From, class F>
  void Map(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
    using Word = typename Stored<To>::Word;
    Word result[kLanes];
    [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      const auto columns =
          std::make_tuple(ColumnOf<typename Stored<From>::Word>(warp, in.x[1 + kIndex])...);
      for (int l = 0; l < kLanes; ++l) {
        result[l] =
            Stored<To>::To(static_cast<To>(f(Stored<From>::From(std::get<kIndex>(columns)[l])...)));
      }
    }(std::index_sequence_for<From...>());
    Blend(ColumnOf<Word>(warp, in.x[0]), result, mask);
  }

  template <class F>
  void Integers(Type type, const F& f) {
    WithType(type, [&](auto value) {
      if constexpr (std::is_integral_v<decltype(value)>) f(value);
    });
  }

  template <class F>
  void Unary(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
    WithType(in.type, [&](auto v) {
      using T = decltype(v);
      Map<T, T>(warp, in, mask, [&](T a) { return f(a); });
    });
  }
  template <class F>
  void Binary(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
    WithType(in.type, [&](auto v) {
      using T = decltype(v);
      Map<T, T, T>(warp, in, mask, [&](T a, T b) { return f(a, b); });
    });
  }
  template <class F>
  void Bits(Warp& warp, const Instruction& in, uint32_t mask, const F& f) {
    Integers(in.type, [&](auto v) {
      using T = decltype(v);
      Map<T, T, T>(warp, in, mask, [&](T a, T b) { return static_cast<T>(f(a, b)); });
    });
  }

  // Whether the warp should give way to others.
  bool Execute(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    switch (in.op) {
      case Op::kMov:
        if (BytesOf(in.type) == 8) {
          Blend(&warp.r64[size_t{in.x[0]} * kLanes], &warp.r64[size_t{in.x[1]} * kLanes], mask);
        } else {
          Blend(Words(warp, in.x[0]), Words(warp, in.x[1]), mask);
        }
        return false;
      case Op::kPack:
        if (BytesOf(in.type) == 8) {
          Map<uint64_t, uint32_t, uint32_t>(warp, in, mask, [](uint32_t low, uint32_t high) {
            return low | uint64_t{high} << 32;
          });
        } else {
          Map<uint32_t, uint16_t, uint16_t>(warp, in, mask, [](uint16_t low, uint16_t high) {
            return low | uint32_t{high} << 16;
          });
        }
        return false;
      case Op::kUnpack:
        for (int l = 0; l < kLanes; ++l) {
          if (!(mask >> l & 1)) continue;
          const bool wide = BytesOf(in.type) == 8;
          const uint64_t word =
              wide ? warp.r64[size_t{in.x[2]} * kLanes + l] : Words(warp, in.x[2])[l];
          for (int i = 0; i < 2; ++i) {
            if (in.x[i] == kNone) continue;
            Words(warp, in.x[i])[l] = wide ? static_cast<uint32_t>(word >> 32 * i)
                                           : static_cast<uint16_t>(word >> 16 * i);
          }
        }
        return false;
      case Op::kClock: {
        uint64_t now[kLanes];
        std::fill_n(now, kLanes, clock_);
        Blend(&warp.r64[size_t{in.x[0]} * kLanes], now, mask);
        return true;
      }
      case Op::kAdd:
        Binary(warp, in, mask, []<class T>(T a, T b) { return Wrap<T>(a + b); });
        return false;
      case Op::kSub:
        Binary(warp, in, mask, []<class T>(T a, T b) { return Wrap<T>(a - b); });
        return false;
      case Op::kMul:
        Binary(warp, in, mask, []<class T>(T a, T b) {
          if constexpr (std::is_integral_v<T>) {
            return Wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
          } else {
            return a * b;
          }
        });
        return false;
      case Op::kMulHi:
        Bits(warp, in, mask, []<class T>(T a, T b) {
          using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
          return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> 8 * sizeof(T));
        });
        return false;
      case Op::kMulWide:
        switch (in.type) {
          case Type::kS32:
            Map<int64_t, int32_t, int32_t>(warp, in, mask,
                                           [](int32_t a, int32_t b) { return int64_t{a} * b; });
            break;
          case Type::kB32:
            Map<uint64_t, uint32_t, uint32_t>(
                warp, in, mask, [](uint32_t a, uint32_t b) { return uint64_t{a} * b; });
            break;
          case Type::kS16:
            Map<int32_t, int16_t, int16_t>(warp, in, mask,
                                           [](int16_t a, int16_t b) { return int32_t{a} * b; });
            break;
          default:
            Map<uint32_t, uint16_t, uint16_t>(
                warp, in, mask, [](uint16_t a, uint16_t b) { return uint32_t{a} * b; });
        }
        return false;
      case Op::kMad:
        Integers(in.type, [&](auto v) {
          using T = decltype(v);
          Map<T, T, T, T>(warp, in, mask, [](T a, T b, T c) {
            return Wrap<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) +
                           static_cast<uint64_t>(c));
          });
        });
        return false;
      case Op::kMadWide:
        if (in.type == Type::kS32) {
          Map<int64_t, int32_t, int32_t, int64_t>(
              warp, in, mask, [](int32_t a, int32_t b, int64_t c) {
                return static_cast<int64_t>(static_cast<uint64_t>(int64_t{a} * b) +
                                            static_cast<uint64_t>(c));
              });
        } else {
          Map<uint64_t, uint32_t, uint32_t, uint64_t>(
              warp, in, mask,
              [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t{a} * b + c; });
        }
        return false;
      case Op::kDiv:
        Binary(warp, in, mask, []<class T>(T a, T b) {
          if constexpr (std::is_integral_v<T>) {
            if (b == 0 || (std::is_signed_v<T> && b == static_cast<T>(-1))) {
              return b == 0 ? static_cast<T>(-1) : Wrap<T>(0 - static_cast<uint64_t>(a));
            }
          }
          return static_cast<T>(a / b);
        });
        return false;
      case Op::kRem:
        Bits(warp, in, mask, []<class T>(T a, T b) {
          if (b == 0 || (std::is_signed_v<T> && b == static_cast<T>(-1))) return b == 0 ? a : T{0};
          return static_cast<T>(a % b);
        });
        return false;
      case Op::kMin:
        Binary(warp, in, mask, []<class T>(T a, T b) {
          if constexpr (std::is_same_v<T, float>) return std::fmin(a, b);
          return std::min(a, b);
        });
        return false;
      case Op::kMax:
        Binary(warp, in, mask, []<class T>(T a, T b) {
          if constexpr (std::is_same_v<T, float>) return std::fmax(a, b);
          return std::max(a, b);
        });
        return false;
      case Op::kAnd: Bits(warp, in, mask, [](auto a, auto b) { return a & b; }); return false;
      case Op::kOr: Bits(warp, in, mask, [](auto a, auto b) { return a | b; }); return false;
      case Op::kXor: Bits(warp, in, mask, [](auto a, auto b) { return a ^ b; }); return false;
      case Op::kNot:
        Integers(in.type, [&](auto v) {
          using T = decltype(v);
          const bool is_predicate = in.type == Type::kPred;
          Map<T, T>(warp, in, mask, [=](T a) { return static_cast<T>(is_predicate ? !a : ~a); });
        });
        return false;
      case Op::kNeg: Unary(warp, in, mask, []<class T>(T a) { return Wrap<T>(-a); }); return false;
      case Op::kAbs:
        Unary(warp, in, mask, []<class T>(T a) {
          if constexpr (std::is_same_v<T, float>) return std::fabs(a);
          return a < T{0} ? Wrap<T>(-a) : a;
        });
        return false;
      case Op::kShl:
      case Op::kShr:
        Integers(in.type, [&](auto v) {
          using T = decltype(v);
          constexpr uint32_t kBits = 8 * sizeof(T);
          if (in.op == Op::kShl) {
            Map<T, T, uint32_t>(warp, in, mask, [](T a, uint32_t n) {
              return n >= kBits ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << n);
            });
          } else {
            Map<T, T, uint32_t>(warp, in, mask, [](T a, uint32_t n) {
              return static_cast<T>(n >= kBits ? (a < T{0} ? T(-1) : T{0}) : T(a >> n));
            });
          }
        });
        return false;
      case Op::kFma:
        Map<float, float, float, float>(
            warp, in, mask, [](float a, float b, float c) { return std::fma(a, b, c); });
        return false;
      case Op::kFmaDown: Map<float, float, float, float>(warp, in, mask, FmaDown); return false;
      case Op::kRcp: Map<float, float>(warp, in, mask, [](float a) { return 1 / a; }); return false;
      case Op::kSqrt:
        Map<float, float>(warp, in, mask, [](float a) { return std::sqrt(a); });
        return false;
      case Op::kExp2:
        Map<float, float>(warp, in, mask, [](float a) { return std::exp2(a); });
        return false;
      case Op::kLog2:
        Map<float, float>(warp, in, mask, [](float a) { return std::log2(a); });
        return false;
      case Op::kCopysign:  // the sign of the first
        Map<float, float, float>(warp, in, mask,
                                 [](float a, float b) { return std::copysign(b, a); });
        return false;
      case Op::kSetp: Compare_(warp, in, mask); return false;
      case Op::kSelp:
        if (BytesOf(in.type) == 8) {
          Map<uint64_t, uint64_t, uint64_t, uint32_t>(
              warp, in, mask, [](uint64_t a, uint64_t b, uint32_t p) { return p ? a : b; });
        } else {
          Map<uint32_t, uint32_t, uint32_t, uint32_t>(
              warp, in, mask, [](uint32_t a, uint32_t b, uint32_t p) { return p ? a : b; });
        }
        return false;
      case Op::kActiveMask: {
        uint32_t active[kLanes];
        std::fill_n(active, kLanes, mask);
        Blend(Words(warp, in.x[0]), active, mask);
        return false;
      }
      case Op::kReverse:
        Map<uint32_t, uint32_t>(warp, in, mask, [](uint32_t a) {
          uint32_t reversed = 0;
          for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1) << (31 - i);
          return reversed;
        });
        return false;
      case Op::kLeadingZeros:  // bfind.shiftamt
        Map<uint32_t, uint32_t>(warp, in, mask, [](uint32_t a) {
          return a == 0 ? kAll : static_cast<uint32_t>(std::countl_zero(a));
        });
        return false;
      case Op::kBfi:
        Map<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>(
            warp, in, mask, [](uint32_t a, uint32_t b, uint32_t at, uint32_t bits) {
              const uint64_t field = bits >= 32 ? 0xffffffffu : (uint64_t{1} << bits) - 1;
              const uint64_t place = at >= 32 ? 0 : (field << at) & 0xffffffffu;
              const uint64_t moved = at >= 32 ? 0 : uint64_t{a} << at;
              return static_cast<uint32_t>((b & ~place) | (moved & place));
            });
        return false;
      case Op::kPrmt:
        Map<uint32_t, uint32_t, uint32_t, uint32_t>(
            warp, in, mask, [](uint32_t a, uint32_t b, uint32_t selector) {
              const uint64_t both = a | uint64_t{b} << 32;
              uint32_t result = 0;
              for (int i = 0; i < 4; ++i) {
                const uint32_t nibble = selector >> 4 * i & 15;
                uint32_t byte = static_cast<uint32_t>(both >> 8 * (nibble & 7)) & 0xff;
                if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
                result |= byte << 8 * i;
              }
              return result;
            });
        return false;
      case Op::kCvt:
        Integers(in.type, [&](auto to) {
          Integers(in.from, [&](auto from) {
            using To = decltype(to);
            using From = decltype(from);
            Map<To, From>(warp, in, mask, [](From a) { return static_cast<To>(a); });
          });
        });
        return false;
      case Op::kCvtSat:
        Map<float, float>(warp, in, mask, [](float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; });
        return false;
      case Op::kToBfloat16: Map<uint16_t, float>(warp, in, mask, ToBfloat16); return false;
      case Op::kToFloat16: Map<uint16_t, float>(warp, in, mask, ToFloat16); return false;
      case Op::kToTf32: Map<uint32_t, uint32_t>(warp, in, mask, ToTf32); return false;
      case Op::kFromFloat16: Map<float, uint16_t>(warp, in, mask, FromFloat16); return false;
      case Op::kFromBfloat16:
        Map<float, uint16_t>(warp, in, mask,
                             [](uint16_t a) { return FromBits(uint32_t{a} << 16); });
        return false;
      case Op::kFromInt:
        Integers(in.from, [&](auto v) {
          using T = decltype(v);
          Map<float, T>(warp, in, mask, [](T a) { return static_cast<float>(a); });
        });
        return false;
      case Op::kToInt:
        Integers(in.type, [&](auto v) {
          using T = decltype(v);
          Map<T, float>(warp, in, mask, [](float a) {
            if (std::isnan(a)) return T{0};
            const double least = static_cast<double>(std::numeric_limits<T>::min());
            const double most = static_cast<double>(std::numeric_limits<T>::max());
            if (a <= least) return std::numeric_limits<T>::min();
            return a >= most ? std::numeric_limits<T>::max() : static_cast<T>(a);
          });
        });
        return false;
      case Op::kToGenericShared: {
        const auto base = reinterpret_cast<uint64_t>(warp.block->shared());
        Map<uint64_t, uint64_t>(warp, in, mask,
                                [=](uint64_t a) { return base + (a & 0xffffffff); });
        return false;
      }
      case Op::kFromGenericShared: {
        const auto base = reinterpret_cast<uint64_t>(warp.block->shared());
        Map<uint64_t, uint64_t>(warp, in, mask, [=](uint64_t a) { return a - base; });
        return false;
      }
      case Op::kMapa:
        Map<uint32_t, uint32_t, uint32_t>(warp, in, mask, [&](uint32_t a, uint32_t rank) {
          return (rank + 1) << kRankShift | (a & ((1u << kRankShift) - 1));
        });
        return false;
      case Op::kLd: return Load(warp, in, mask, pc);
      case Op::kSt: Store(warp, in, mask, pc); return false;
      case Op::kRedAdd: RedAdd(warp, in, mask, pc); return false;
      case Op::kPrefetch: return false;
      case Op::kFence:
        if (in.release) Deliver(*warp.block, 0);
        return false;
      case Op::kAssertFail: AssertFail(warp, in, mask);
      case Op::kTrap: Fail(warp, pc, "trap");
      case Op::kMbarrierInit:
        ForLanes(mask, [&](int l) {
          ByteBarrier& barrier = warp.block->byte_barriers[BarrierAt(warp, in, pc, in.x[0], l)];
          barrier = {};
          barrier.count = barrier.arrivals = Words(warp, in.x[1])[l];
        });
        return false;
      case Op::kMbarrierExpect:
        ForLanes(mask, [&](int l) {
          ByteBarrier& barrier = Initialised(warp, pc, BarrierAt(warp, in, pc, in.x[0], l));
          barrier.bytes += Words(warp, in.x[1])[l];
          if (--barrier.arrivals < 0) Fail(warp, pc, "an arrival too many at an mbarrier");
          barrier.Advance();
        });
        return false;
      case Op::kMbarrierTryWait: {
        bool late = false;
        ForLanes(mask, [&](int l) {
          const ByteBarrier& barrier = Initialised(warp, pc, BarrierAt(warp, in, pc, in.x[1], l));
          const bool done = (barrier.phase & 1) != (Words(warp, in.x[2])[l] & 1);
          Words(warp, in.x[0])[l] = done;
          late |= !done;
        });
        return late;
      }
      case Op::kStAsync: StoreAsync(warp, in, mask, pc); return false;
      default: Fail(warp, pc, "an instruction without a meaning here");
    }
  }

  template <class F>
  static void ForLanes(uint32_t mask, const F& f) {
    for (int l = 0; l < kLanes; ++l) {
      if (mask >> l & 1) f(l);
    }
  }

  void Compare_(Warp& warp, const Instruction& in, uint32_t mask) {
    WithType(in.type, [&](auto v) {
      using T = decltype(v);
      const auto with = [&](const auto& f) { Map<uint8_t, T, T>(warp, in, mask, f); };
      switch (static_cast<Compare>(in.kind)) {
        case Compare::kEq: return with([](T a, T b) { return a == b; });
        case Compare::kLt: return with([](T a, T b) { return a < b; });
        case Compare::kLe: return with([](T a, T b) { return a <= b; });
        case Compare::kGt: return with([](T a, T b) { return a > b; });
        case Compare::kGe: return with([](T a, T b) { return a >= b; });
        // Of floats, ordered; a NaN is not "not equal" to anything.
        case Compare::kNe: return with([](T a, T b) { return a < b || a > b; });
        case Compare::kEqu: return with([](T a, T b) { return !(a < b || a > b); });
        case Compare::kNeu: return with([](T a, T b) { return !(a == b); });
        case Compare::kLtu: return with([](T a, T b) { return !(a >= b); });
        case Compare::kLeu: return with([](T a, T b) { return !(a > b); });
        case Compare::kGtu: return with([](T a, T b) { return !(a <= b); });
        case Compare::kGeu: return with([](T a, T b) { return !(a < b); });
      }
    });
  }

  uint64_t AddressOf(Warp& warp, const Instruction& in, int lane) {
    const uint64_t base =
        in.x[1] != 0 ? warp.r64[size_t{in.x[0]} * kLanes + lane] : Words(warp, in.x[0])[lane];
    return base + static_cast<uint64_t>(in.offset);
  }

  // A value of in.type, into a register that may be wider.
  void SetColumn(Warp& warp, const Instruction& in, int index, int lane, const void* from) {
    uint64_t word = 0;
    std::memcpy(&word, from, static_cast<size_t>(BytesOf(in.type)));
    if (in.type == Type::kS8) word = static_cast<uint64_t>(static_cast<int8_t>(word));
    if (in.type == Type::kS16) word = static_cast<uint64_t>(static_cast<int16_t>(word));
    if (in.type == Type::kS32) word = static_cast<uint64_t>(static_cast<int32_t>(word));
    if (BytesOf(in.from) == 8) {
      warp.r64[size_t{in.x[2 + index]} * kLanes + lane] = word;
    } else {
      Words(warp, in.x[2 + index])[lane] = static_cast<uint32_t>(word);
    }
  }

  bool Load(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    Block& block = *warp.block;
    const int each = BytesOf(in.type), bytes = each * in.vector;
    ForLanes(mask, [&](int l) {
      const uint64_t address = AddressOf(warp, in, l);
      unsigned char value[16];
      if (in.space == Space::kShared) {
        std::memcpy(value, block.shared() + SharedOffset(warp, pc, address, bytes), bytes);
      } else if (in.space != Space::kParam && IsShared(block, address)) {
        const uint64_t begin = reinterpret_cast<uint64_t>(block.shared());
        std::memcpy(value, block.shared() + SharedOffset(warp, pc, address - begin, bytes), bytes);
      } else {
        CheckGlobal(warp, pc, address, bytes);
        LoadGlobal(block, address, value, bytes);
      }
      for (int i = 0; i < in.vector; ++i) {
        SetColumn(warp, in, i, l, value + i * each);
      }
    });
    return in.strong && dice_.Roll(4) == 0;
  }

  void Store(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    Block& block = *warp.block;
    if (in.release) Deliver(block, 0);
    const int each = BytesOf(in.type), bytes = each * in.vector;
    ForLanes(mask, [&](int l) {
      const uint64_t address = AddressOf(warp, in, l);
      unsigned char value[16];
      for (int i = 0; i < in.vector; ++i) {
        const void* from = BytesOf(in.from) == 8
                               ? static_cast<void*>(&warp.r64[size_t{in.x[2 + i]} * kLanes + l])
                               : static_cast<void*>(&Words(warp, in.x[2 + i])[l]);
        std::memcpy(value + i * each, from, static_cast<size_t>(each));
      }
      if (in.space == Space::kShared) {
        std::memcpy(block.shared() + SharedOffset(warp, pc, address, bytes), value, bytes);
      } else if (IsShared(block, address)) {
        const uint64_t begin = reinterpret_cast<uint64_t>(block.shared());
        std::memcpy(block.shared() + SharedOffset(warp, pc, address - begin, bytes), value, bytes);
      } else {
        CheckGlobal(warp, pc, address, bytes);
        StoreGlobal(block, address, value, bytes);
      }
    });
  }

  void RedAdd(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    if (in.release) Deliver(*warp.block, 0);
    ForLanes(mask, [&](int l) {
      const uint64_t address = AddressOf(warp, in, l);
      CheckGlobal(warp, pc, address, 4);
      *reinterpret_cast<uint32_t*>(address) += Words(warp, in.x[2])[l];
    });
  }

  uint32_t BarrierAt(Warp& warp, const Instruction& in, uint32_t pc, uint32_t column, int lane) {
    const uint64_t address = Words(warp, column)[lane] + static_cast<uint64_t>(in.offset);
    return SharedOffset(warp, pc, address, 8);
  }

  ByteBarrier& Initialised(Warp& warp, uint32_t pc, uint32_t offset) {
    const auto found = warp.block->byte_barriers.find(offset);
    if (found == warp.block->byte_barriers.end()) Fail(warp, pc, "no mbarrier was made there");
    return found->second;
  }

  void StoreAsync(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
    constexpr uint32_t kOffset = (1u << kRankShift) - 1;
    ForLanes(mask, [&](int l) {
      const uint32_t to = Words(warp, in.x[0])[l] + static_cast<uint32_t>(in.offset);
      const uint32_t barrier = Words(warp, in.x[1])[l];
      const uint32_t rank = to >> kRankShift;
      if (rank == 0 || rank != barrier >> kRankShift ||
          rank > static_cast<uint32_t>(shape_.cluster) || shape_.cluster == 1) {
        Fail(warp, pc, "st.async to a block that is not of the cluster", Failure::kAddress);
      }
      const int first = warp.block->index / shape_.cluster * shape_.cluster;
      Block& block = *blocks_[static_cast<size_t>(first) + rank - 1];
      const uint32_t offset = SharedOffset(warp, pc, to & kOffset, 16);
      const uint32_t at = SharedOffset(warp, pc, barrier & kOffset, 8);
      if (!block.byte_barriers.contains(at)) Fail(warp, pc, "st.async: no mbarrier was made there");
      bool ended = true;
      for (const auto& each : block.warps) ended &= each->done == kAll;
      if (ended) Fail(warp, pc, "st.async to a block that has ended", Failure::kAddress);
      AsyncStore store{&block, offset, at, {}};
      for (int i = 0; i < 4; ++i) store.words[i] = Words(warp, in.x[2 + i])[l];
      async_.push_back(store);
    });
  }

  // As the driver prints it: message, file, line, function, bytes of a character.
  [[noreturn]] void AssertFail(Warp& warp, const Instruction& in, uint32_t mask) {
    Deliver(*warp.block, 0);
    int lane = 0;
    while (!(mask >> lane & 1)) ++lane;
    const auto at = [&](int i) { return warp.r64[size_t{in.x[i]} * kLanes + lane]; };
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
  std::vector<std::pair<uint64_t, uint64_t>> memory_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<Warp*> all_;
  std::vector<Cluster> clusters_;
  std::vector<AsyncStore> async_;
  uint64_t clock_ = 1, instructions_ = 0;
};

}  // namespace

RunResult RunGrid(const Module& module, const Kernel& kernel, const void* parameters,
                  const GridShape& shape, const RunOptions& options) {
  return Machine(module, kernel, parameters, shape, options).Run();
}

}  // namespace jp::software_gpu
