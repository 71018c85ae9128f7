// SPDX-License-Identifier: Apache-2.0
// Working memory is aligned, returned to, reused only where it fits, and safe from many threads.
#include "native/cpu/scratch.h"

#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "tests/native/check.h"

namespace {

using jp::cpu::Scratch;

constexpr size_t kHugePage = size_t{2} << 20;

void TestAlignmentAndSize() {
  for (size_t bytes :
       {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{4097}, size_t{3} << 20}) {
    const Scratch scratch(bytes);
    const auto address = reinterpret_cast<uintptr_t>(scratch.as<void>());
    CHECK(address % 64 == 0, bytes);
    CHECK(bytes < kHugePage || address % kHugePage == 0, bytes);
    std::memset(scratch.as<void>(), 0x5a, bytes);
  }
}

void TestReuse() {
  void* first = nullptr;
  {
    const Scratch scratch(size_t{1} << 20);
    first = scratch.as<void>();
  }
  {
    const Scratch again((size_t{1} << 20) - 100);
    CHECK(again.as<void>() == first);
    const Scratch other(size_t{1} << 20);
    CHECK(other.as<void>() != first);
  }
  const Scratch small(100);  // a block much too large is not spent on it
  CHECK(small.as<void>() != first);
}

// Else a program that has run many shapes would map the memory of the present one at each call.
void TestTheLatestIsKept() {
  constexpr size_t kLatest = size_t{240} << 20;  // all that is kept, but for 16 MiB
  constexpr unsigned char kMark = 0x5a;
  for (size_t bytes : {size_t{40} << 20, size_t{150} << 20, kLatest}) {
    const Scratch scratch(bytes);
    *scratch.as<unsigned char>() = kMark;
  }
  const Scratch again(kLatest);
  CHECK(*again.as<unsigned char>() == kMark);  // a new mapping would have a zero
}

void TestMoveGivesUpTheMemory() {
  Scratch from(5000);
  void* const data = from.as<void>();
  const Scratch to(std::move(from));
  CHECK(to.as<void>() == data);
  CHECK(from.as<void>() == nullptr);
}

void TestManyThreads() {
  std::vector<std::thread> threads;
  for (int seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([seed] {
      for (int i = 0; i < 200; ++i) {
        const size_t bytes = static_cast<size_t>(seed) * 977 * (i % 7 + 1);
        const Scratch scratch(bytes);
        std::memset(scratch.as<void>(), seed, bytes);
        const auto* data = scratch.as<unsigned char>();
        CHECK(data[0] == seed && data[bytes - 1] == seed, seed);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
  TestAlignmentAndSize();
  TestReuse();
  TestTheLatestIsKept();
  TestMoveGivesUpTheMemory();
  TestManyThreads();
  return jp::test::Finish("scratch");
}
