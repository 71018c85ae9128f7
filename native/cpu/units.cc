// SPDX-License-Identifier: Apache-2.0
// Asks the processor, the environment and, for AMX, the system.
#include "native/cpu/units.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "native/cpu/isa.h"

namespace jp::cpu {
namespace {

constexpr std::string_view kNames[] = {"widened", "avx512_bf16", "amx"};  // of Units

Units Allowed() {
  const char* asked = std::getenv("JAX_PERSISTENT_BFLOAT16");
  if (asked == nullptr || *asked == '\0') return Units::kPairs;
  for (Units units : {Units::kWidened, Units::kPairs, Units::kTiles}) {
    if (kNames[static_cast<int>(units)] == asked) return units;
  }
  throw std::runtime_error(
      "JAX_PERSISTENT_BFLOAT16: expected one of widened, avx512_bf16, amx; got '" +
      std::string(asked) + "'");
}

#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)

struct Processor {
  bool avx512_bf16 = false, amx = false;

  Processor() {
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return;
    avx512_bf16 = eax & 1u << 5;
    __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
    constexpr uint32_t kAmx = 1u << 22 | 1u << 24;  // BF16, TILE
    constexpr uint32_t kState = 3u << 17;           // tiles and their configuration
    uint32_t saved, high;                           // the registers that the system knows to save
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    amx = (edx & kAmx) == kAmx && (saved & kState) == kState &&
          __get_cpuid_count(0x1d, 1, &eax, &ebx, &ecx, &edx) && ebx == (8u << 16 | 64) &&
          (ecx & 0xffff) == 16;  // registers, bytes of a row, rows
  }
};

// Whether the system lets the process use tile registers. It answers for all its threads, of now
// and later, and refuses where one has a stack for signals that would be too small.
bool SystemAllowsTiles() {
#if defined(__linux__)
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

ChosenUnits Choose() {
  const Units allowed = Allowed();
  if (&ChosenIsa() != &kAvx512Isa) {
    return {Units::kWidened, "widened to float32: only the AVX-512 kernels have dot products"};
  }
  const Processor processor;
  if (!processor.avx512_bf16) {
    return {Units::kWidened, "widened to float32: the processor has no AVX512_BF16"};
  }
  if (allowed == Units::kWidened) {
    return {Units::kWidened, "widened to float32, as JAX_PERSISTENT_BFLOAT16 says"};
  }
  const std::string pairs = "dot products of AVX512_BF16; ";
  if (!processor.amx) return {Units::kPairs, pairs + "the processor has no AMX"};
  if (allowed != Units::kTiles) {
    return {Units::kPairs, pairs + "AMX is off: JAX_PERSISTENT_BFLOAT16=amx turns it on"};
  }
  if (!SystemAllowsTiles()) return {Units::kPairs, pairs + "the system refuses AMX's registers"};
  return {Units::kTiles, "tiles of AMX"};
}

#else

ChosenUnits Choose() {
  Allowed();
  return {Units::kWidened, "widened to float32"};
}

#endif

}  // namespace

const ChosenUnits& UnitsHere() {
  static const ChosenUnits chosen = Choose();
  return chosen;
}

}  // namespace jp::cpu
