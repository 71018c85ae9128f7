// SPDX-License-Identifier: Apache-2.0
// A store of blocks of memory, large ones in huge pages.
#include "native/cpu/scratch.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "native/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jp::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMostKept = size_t{256} << 20;  // more than the weights of any plan that is fast

struct Block {
  void* data;
  size_t bytes;
};

// Blocks of at least a huge page are whole huge pages.
size_t Alignment(size_t bytes) { return bytes < kHugePage ? kAlignment : kHugePage; }

#if defined(__linux__)

// Large blocks come from the system and not from the allocator: memory that the allocator reuses
// stays in small pages, and streaming megabytes a step through those would miss the TLB throughout.
void* Allocate(size_t bytes) {
  if (bytes < kHugePage) return std::aligned_alloc(kAlignment, bytes);
  const size_t mapped = bytes + kHugePage;
  void* const memory =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(memory);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, mapped - before - bytes);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

void Free(const Block& block) {
  if (block.bytes < kHugePage) {
    std::free(block.data);
  } else {
    munmap(block.data, block.bytes);
  }
}

#else

void* Allocate(size_t bytes) { return std::aligned_alloc(Alignment(bytes), bytes); }
void Free(const Block& block) { std::free(block.data); }

#endif

// Never destroyed: a worker may return memory while the process exits.
struct Store {
  std::mutex mutex;
  std::vector<Block> blocks;
  size_t bytes = 0;
};

Store& store() {
  static Store* const instance = new Store;
  return *instance;
}

}  // namespace

Scratch::Scratch(size_t bytes) : data_(nullptr), bytes_(0) {
  const size_t alignment = Alignment(bytes);
  bytes = (bytes + alignment - 1) / alignment * alignment;
  {
    Store& kept = store();
    std::lock_guard lock(kept.mutex);
    size_t best = kept.blocks.size();
    for (size_t i = 0; i < kept.blocks.size(); ++i) {
      const size_t have = kept.blocks[i].bytes;
      const bool fits = have >= bytes && have <= 2 * bytes;
      if (fits && (best == kept.blocks.size() || have < kept.blocks[best].bytes)) best = i;
    }
    if (best != kept.blocks.size()) {
      data_ = kept.blocks[best].data;
      bytes_ = kept.blocks[best].bytes;
      kept.bytes -= bytes_;
      kept.blocks.erase(kept.blocks.begin() + best);
      return;
    }
  }
  data_ = Allocate(bytes);
  if (data_ == nullptr) throw std::bad_alloc();
  bytes_ = bytes;
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  if (bytes_ > kMostKept) {
    Free({data_, bytes_});
    return;
  }
  Store& kept = store();
  std::lock_guard lock(kept.mutex);
  kept.blocks.push_back({data_, bytes_});
  kept.bytes += bytes_;
  // The blocks unused for longest are freed: a program that now has other shapes needs other sizes.
  while (kept.bytes > kMostKept) {
    const Block oldest = kept.blocks.front();
    kept.blocks.erase(kept.blocks.begin());
    kept.bytes -= oldest.bytes;
    Free(oldest);
  }
}

}  // namespace jp::cpu
