// SPDX-License-Identifier: Apache-2.0
// Huge pages for arrays that are about to be written. XLA maps large ones anew in every call, and
// the system then clears them 4 KiB at a time, which took half of some calls.
#pragma once

#include <cstddef>
#include <vector>

namespace jp {

inline constexpr size_t kHugePage = size_t{2} << 20;

struct Memory {
  char* data;
  size_t bytes;
};

// Asks for huge pages where arrays that are written together are large. Never fails: where the
// system has none, pages stay small.
void UseHugePages(std::vector<Memory> written);

}  // namespace jp
