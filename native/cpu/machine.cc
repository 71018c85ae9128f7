// SPDX-License-Identifier: Apache-2.0
// Reads the caches' sizes from Linux, and the limit of threads from the environment.
#include "native/cpu/machine.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "native/cpu/isa.h"
#include "native/cpu/units.h"

namespace jp::cpu {
namespace {

// Bytes of the data cache of this level that the first core uses, 0 if the system doesn't say.
// (sysconf is no help: on some processors it reports the level-3 caches of the whole package.)
int64_t CacheBytes(int level) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    int found = 0;
    std::string type;
    int64_t kibibytes = 0;
    if (!(std::ifstream(folder + "level") >> found)) break;
    if (found != level || !(std::ifstream(folder + "type") >> type) || type == "Instruction") {
      continue;
    }
    if (std::ifstream(folder + "size") >> kibibytes) return kibibytes << 10;  // "512K"
  }
  return 0;
}

// The most workers that JAX_PERSISTENT_THREADS allows.
int MostThreads() {
  const char* asked = std::getenv("JAX_PERSISTENT_THREADS");
  if (asked == nullptr || *asked == '\0') return std::numeric_limits<int>::max();
  const std::string text = asked;
  int most = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), most);
  if (error == std::errc() && end == text.data() + text.size() && most >= 1) return most;
  throw std::runtime_error("JAX_PERSISTENT_THREADS: expected a whole number of at least 1; got '" +
                           text + "'; unset it to use as many as XLA does");
}

CpuFacts Look() {
  const Isa& isa = ChosenIsa();
  const int64_t l2 = CacheBytes(2);
  return {.threads = 1,
          .vector_lanes = isa.lanes,
          .vector_count = isa.registers,
          .l2_bytes = l2 > 0 ? l2 : int64_t{512} << 10,
          .l3_bytes = CacheBytes(3),
          .units = UnitsHere().units};
}

}  // namespace

CpuFacts ThisMachine(int threads) {
  static const CpuFacts seen = Look();
  static const int most = MostThreads();
  CpuFacts facts = seen;
  facts.threads = std::clamp(threads, 1, most);
  return facts;
}

}  // namespace jp::cpu
