// SPDX-License-Identifier: Apache-2.0
// Which memory huge pages are asked for, as the system says it, and that what it holds stays.
#include "native/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/native/check.h"

namespace {

using jp::kHugePage;
using jp::Memory;

class Mapping {
 public:
  explicit Mapping(size_t bytes)
      : bytes_(bytes),
        data_(static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~Mapping() { munmap(data_, bytes_); }
  char* data() const { return data_; }

 private:
  size_t bytes_;
  char* data_;
};

// Whether huge pages are asked for where this byte is.
bool Asked(const char* byte) {
  const auto address = reinterpret_cast<uintptr_t>(byte);
  std::ifstream maps("/proc/self/smaps");
  bool is_here = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      is_here = begin <= address && address < end;
    } else if (is_here && line.rfind("VmFlags:", 0) == 0) {
      std::istringstream words(line);
      for (std::string word; words >> word;) {
        if (word == "hg") return true;
      }
      return false;
    }
  }
  return false;
}

// Systems without huge pages, and emulators, do not say.
bool SystemSays() {
  const Mapping whole(4 * kHugePage);
  return madvise(whole.data(), 4 * kHugePage, MADV_HUGEPAGE) == 0 && Asked(whole.data());
}

void TestLargeOnes() {
  const Mapping whole(16 * kHugePage);
  char* const first = whole.data() + 100;
  std::vector<Memory> written = {{first + 5 * kHugePage, kHugePage},  // a gap of less than a page
                                 {first, 4 * kHugePage + 1},
                                 {first + 12 * kHugePage, kHugePage / 2}};  // no page fits in
  first[5] = 'a';
  jp::UseHugePages(written);
  CHECK(first[5] == 'a');
  for (const Memory& memory : written) memory.data[memory.bytes - 1] = 'b';
  CHECK(first[4 * kHugePage] == 'b');
  if (!SystemSays()) return;
  CHECK(Asked(first + kHugePage) && Asked(first + 5 * kHugePage));
  CHECK(!Asked(first + 12 * kHugePage) && !Asked(whole.data() + 15 * kHugePage));
}

void TestSmallOnes() {
  const Mapping whole(4 * kHugePage);
  jp::UseHugePages({{whole.data(), kHugePage + kHugePage / 2}, {nullptr, 0}});
  jp::UseHugePages({});
  CHECK(!Asked(whole.data()));
}

}  // namespace

int main() {
  TestLargeOnes();
  TestSmallOnes();
  return jp::test::Finish("huge pages");
}
