#include "native/cpu/machine.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "native/cpu/isa.h"

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

CpuFacts Look() {
  const Isa& isa = ChosenIsa();
  const int64_t l2 = CacheBytes(2);
  return {1, isa.lanes, isa.registers, l2 > 0 ? l2 : int64_t{512} << 10, CacheBytes(3)};
}

}  // namespace

CpuFacts ThisMachine(int threads) {
  static const CpuFacts seen = Look();
  CpuFacts facts = seen;
  facts.threads = std::max(threads, 1);
  return facts;
}

}  // namespace jp::cpu
