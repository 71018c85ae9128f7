// SPDX-License-Identifier: Apache-2.0
// Arrays that lie side by side are taken as one: a huge page fits into few of them alone.
#include "native/huge_pages.h"

#include <algorithm>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace jp {

#if defined(__linux__)

namespace {

constexpr size_t kLeast = size_t{4} << 20;  // of all arrays: less is taken from the allocator's own

void Advise(char* begin, char* end) {
  static const uintptr_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(end) / page * page;
  if (last < first + kHugePage) return;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace

void UseHugePages(std::vector<Memory> written) {
  size_t bytes = 0;
  for (const Memory& memory : written) bytes += memory.bytes;
  if (bytes < kLeast) return;
  std::sort(written.begin(), written.end(),
            [](const Memory& a, const Memory& b) { return a.data < b.data; });
  char *begin = nullptr, *end = nullptr;
  for (const Memory& memory : written) {
    if (begin == nullptr || memory.data > end + kHugePage) {
      if (begin != nullptr) Advise(begin, end);
      begin = memory.data;
      end = begin;
    }
    end = std::max(end, memory.data + memory.bytes);
  }
  Advise(begin, end);
}

#else

void UseHugePages(std::vector<Memory>) {}

#endif

}  // namespace jp
