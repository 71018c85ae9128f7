// The GPU kernels, run on the CPU, against a plain reference in double.
#include "tests/cuda/problem.h"

namespace {

using jp::CellTraits;
using jp::GpuFacts;
using jp::GpuNumber;
using jp::cpu::Shape;
using jp::test::CheckBothPasses;
using jp::test::Exchange;
using jp::test::GpuCase;

constexpr GpuFacts kSmall{90, 4, 160 << 10, 4, 1 << 20};

// N, B, T, H: odd sizes, one of each, rows past a tile, units past a block, several blocks and
// chunks; with 8 and with 16 bytes of alignment of a row, and with none.
constexpr int64_t kSizes[][4] = {{1, 3, 5, 7}, {2, 9, 3, 20}, {1, 1, 1, 1}, {1, 11, 4, 48}};

}  // namespace

int main(int count, char** arguments) {
  const std::string only = count > 1 ? arguments[1] : "";
  int seed = 0;
  for (const auto& [N, B, T, H] : kSizes) {
    for (const CellTraits& cell : jp::kCells) {
      for (GpuNumber number : {GpuNumber::kBfloat16, GpuNumber::kFloat16, GpuNumber::kTf32,
                               GpuNumber::kFloat32}) {
        for (Exchange exchange :
             {Exchange::kGridData, Exchange::kGridBarrier, Exchange::kCluster}) {
          ++seed;
          const bool reverse = seed % 2, time_major = seed % 3 == 0;
          const GpuCase c{{N, B, T, H, reverse, time_major}, cell, number, exchange, kSmall};
          if (c.name().find(only) == std::string::npos) continue;
          CheckBothPasses(c, seed);
        }
      }
    }
  }
  return jp::test::Finish("GPU kernels on the CPU");
}
