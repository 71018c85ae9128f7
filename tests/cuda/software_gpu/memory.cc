// SPDX-License-Identifier: Apache-2.0
// Loads and stores of a warp's lanes, checked, and when others see them.
#include "tests/cuda/software_gpu/memory.h"

#include <algorithm>
#include <cstring>

namespace jp::software_gpu {
namespace {

constexpr uint32_t kOffset = (1u << kRankShift) - 1;

void LoadGlobal(const Block& block, uint64_t address, void* to, uint64_t bytes) {
  std::memcpy(to, reinterpret_cast<const void*>(address), bytes);
  if (block.stores.empty()) return;
  for (uint64_t word = address & ~uint64_t{3}; word < address + bytes; word += 4) {
    const auto found = block.stores.find(word);
    if (found == block.stores.end()) continue;
    for (uint64_t at = std::max(word, address); at < std::min(word + 4, address + bytes); ++at) {
      const int shift = static_cast<int>(at & 3);
      if (found->second.bytes >> shift & 1) {
        static_cast<unsigned char*>(to)[at - address] =
            static_cast<unsigned char>(found->second.value >> 8 * shift);
      }
    }
  }
}

bool IsShared(Block& block, uint64_t address) {
  const auto begin = reinterpret_cast<uint64_t>(block.shared());
  return address >= begin && address < begin + block.shared_bytes;
}

void CheckAligned(const Warp& warp, uint32_t pc, uint64_t address, int bytes) {
  if ((address & static_cast<uint64_t>(bytes - 1)) == 0) return;  // a power of two
  Fail(warp, pc, "an access of " + std::to_string(bytes) + " bytes is not aligned to them",
       Failure::kAlignment);
}

uint32_t SharedOffset(const Warp& warp, uint32_t pc, uint64_t offset, int bytes) {
  offset &= 0xffffffff;
  CheckAligned(warp, pc, offset, bytes);
  if (offset + static_cast<uint64_t>(bytes) > warp.block->shared_bytes) {
    Fail(warp, pc, "an access past the end of shared memory", Failure::kAddress);
  }
  return static_cast<uint32_t>(offset);
}

uint64_t AddressOf(Warp& warp, const Instruction& in, int lane) {
  const uint64_t base = in.x[1] != 0 ? warp.Wide(in.x[0])[lane] : warp.Words(in.x[0])[lane];
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
    warp.Wide(in.x[2 + index])[lane] = word;
  } else {
    warp.Words(in.x[2 + index])[lane] = static_cast<uint32_t>(word);
  }
}

uint32_t BarrierAt(Warp& warp, const Instruction& in, uint32_t pc, uint32_t column, int lane) {
  const uint64_t address = warp.Words(column)[lane] + static_cast<uint64_t>(in.offset);
  return SharedOffset(warp, pc, address, 8);
}

ByteBarrier& Initialised(Warp& warp, uint32_t pc, uint32_t offset) {
  const auto found = warp.block->byte_barriers.find(offset);
  if (found == warp.block->byte_barriers.end()) Fail(warp, pc, "no mbarrier was made there");
  return found->second;
}

}  // namespace

void Memory::Deliver(Block& block, uint32_t keep) {
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

void Memory::DeliverSome(Block& block) {
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

void Memory::CheckGlobal(const Warp& warp, uint32_t pc, uint64_t address, int bytes) {
  CheckAligned(warp, pc, address, bytes);
  if (address < 4096) Fail(warp, pc, "an access to a null pointer", Failure::kAddress);
  if (global_.empty()) return;
  const auto is_in = [&](const auto& range) {
    return address >= range.first &&
           address + static_cast<uint64_t>(bytes) <= range.first + range.second;
  };
  if (is_in(global_[last_])) return;  // as a warp's next lane mostly is
  for (last_ = 0; last_ < global_.size(); ++last_) {
    if (is_in(global_[last_])) return;
  }
  Fail(warp, pc, "an access astray", Failure::kAddress);
}

void Memory::StoreGlobal(Block& block, uint64_t address, const void* from, int bytes) {
  if (!delays_stores_) {
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

// Where a lane's own memory has these bytes.
unsigned char* Local(Warp& warp, uint32_t pc, int lane, uint64_t offset, int bytes) {
  const size_t each = warp.local.size() / kLanes;
  if (offset + static_cast<uint64_t>(bytes) > each) {
    Fail(warp, pc, "an access astray of local memory");
  }
  return warp.local.data() + static_cast<size_t>(lane) * each + offset;
}

bool Memory::Load(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  Block& block = *warp.block;
  const int each = BytesOf(in.type), bytes = each * in.vector;
  ForLanes(mask, [&](int l) {
    const uint64_t address = AddressOf(warp, in, l);
    unsigned char value[16];
    if (in.space == Space::kLocal) {
      std::memcpy(value, Local(warp, pc, l, address, bytes), bytes);
    } else if (in.space == Space::kShared) {
      std::memcpy(value, block.shared() + SharedOffset(warp, pc, address, bytes), bytes);
    } else if (in.space != Space::kParam && IsShared(block, address)) {
      const uint64_t begin = reinterpret_cast<uint64_t>(block.shared());
      std::memcpy(value, block.shared() + SharedOffset(warp, pc, address - begin, bytes), bytes);
    } else {
      CheckGlobal(warp, pc, address, bytes);
      LoadGlobal(block, address, value, static_cast<uint64_t>(bytes));
    }
    for (int i = 0; i < in.vector; ++i) {
      SetColumn(warp, in, i, l, value + i * each);
    }
  });
  return in.strong && dice_.Roll(4) == 0;
}

void Memory::Store(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  Block& block = *warp.block;
  if (in.release) Deliver(block, 0);
  const int each = BytesOf(in.type), bytes = each * in.vector;
  ForLanes(mask, [&](int l) {
    const uint64_t address = AddressOf(warp, in, l);
    unsigned char value[16];
    for (int i = 0; i < in.vector; ++i) {
      const void* from = BytesOf(in.from) == 8 ? static_cast<void*>(&warp.Wide(in.x[2 + i])[l])
                                               : static_cast<void*>(&warp.Words(in.x[2 + i])[l]);
      std::memcpy(value + i * each, from, static_cast<size_t>(each));
    }
    if (in.space == Space::kLocal) {
      std::memcpy(Local(warp, pc, l, address, bytes), value, bytes);
    } else if (in.space == Space::kShared) {
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

void Memory::RedAdd(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  if (in.release) Deliver(*warp.block, 0);
  ForLanes(mask, [&](int l) {
    const uint64_t address = AddressOf(warp, in, l);
    CheckGlobal(warp, pc, address, 4);
    *reinterpret_cast<uint32_t*>(address) += warp.Words(in.x[2])[l];
  });
}

void Memory::InitByteBarrier(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  ForLanes(mask, [&](int l) {
    ByteBarrier& barrier = warp.block->byte_barriers[BarrierAt(warp, in, pc, in.x[0], l)];
    barrier = {};
    barrier.count = barrier.arrivals = warp.Words(in.x[1])[l];
  });
}

void Memory::ExpectBytes(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  ForLanes(mask, [&](int l) {
    ByteBarrier& barrier = Initialised(warp, pc, BarrierAt(warp, in, pc, in.x[0], l));
    barrier.bytes += warp.Words(in.x[1])[l];
    if (--barrier.arrivals < 0) Fail(warp, pc, "an arrival too many at an mbarrier");
    barrier.Advance();
  });
}

bool Memory::TryWait(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  bool late = false;
  ForLanes(mask, [&](int l) {
    const ByteBarrier& barrier = Initialised(warp, pc, BarrierAt(warp, in, pc, in.x[1], l));
    const bool done = (barrier.phase & 1) != (warp.Words(in.x[2])[l] & 1);
    warp.Words(in.x[0])[l] = done;
    late |= !done;
  });
  return late;
}

void Memory::StoreAsync(Warp& warp, const Instruction& in, uint32_t mask, uint32_t pc) {
  ForLanes(mask, [&](int l) {
    const uint32_t to = warp.Words(in.x[0])[l] + static_cast<uint32_t>(in.offset);
    const uint32_t barrier = warp.Words(in.x[1])[l];
    const uint32_t rank = to >> kRankShift;
    if (rank == 0 || rank != barrier >> kRankShift || rank > static_cast<uint32_t>(cluster_) ||
        cluster_ == 1) {
      Fail(warp, pc, "st.async to a block that is not of the cluster", Failure::kAddress);
    }
    const int first = warp.block->index / cluster_ * cluster_;
    Block& block = *blocks_[static_cast<size_t>(first) + rank - 1];
    const uint32_t offset = SharedOffset(warp, pc, to & kOffset, 16);
    const uint32_t at = SharedOffset(warp, pc, barrier & kOffset, 8);
    if (!block.byte_barriers.contains(at)) Fail(warp, pc, "st.async: no mbarrier was made there");
    bool ended = true;
    for (const auto& each : block.warps) ended &= each->done == kAll;
    if (ended) Fail(warp, pc, "st.async to a block that has ended", Failure::kAddress);
    AsyncStore store{&block, offset, at, {}};
    for (int i = 0; i < 4; ++i) store.words[i] = warp.Words(in.x[2 + i])[l];
    async_.push_back(store);
  });
}

}  // namespace jp::software_gpu
