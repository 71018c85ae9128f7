// The GPU kernels, run on the CPU, against a plain reference in double.
#include "tests/cuda/problem.h"

namespace {

using jp::CellTraits;
using jp::DeviceFacts;
using jp::Precision;
using jp::cpu::Shape;
using jp::test::CheckBothPasses;
using jp::test::Exchange;
using jp::test::GpuCase;

constexpr Precision kNumbers[] = {Precision::kBfloat16, Precision::kFloat16, Precision::kTf32,
                                  Precision::kFloat32};
constexpr Exchange kExchanges[] = {Exchange::kGridData, Exchange::kGridBarrier, Exchange::kCluster};

constexpr DeviceFacts kSmall{90, 4, 160 << 10, 4, 1 << 20};

// N, B, T, H: odd sizes, one of each, rows past a tile, units past a block, several blocks, chunks
// and launches; rows that 16-byte loads can read, and rows that they can't.
constexpr int64_t kSizes[][4] = {{1, 3, 5, 7}, {2, 9, 3, 20}, {1, 1, 1, 1}, {1, 11, 4, 48}};

// `few`: every kernel once, for sanitizers under which a lane costs a hundred times as much.
void CheckAllOptions(bool few) {
  int seed = 0;
  for (const auto& [N, B, T, H] : kSizes) {
    for (const CellTraits& cell : jp::kCells) {
      for (Precision number : kNumbers) {
        for (Exchange exchange : kExchanges) {
          for (bool reverse : {false, true}) {
            const bool time_major = ++seed % 3 == 0;
            if (few && (H != 20 || reverse)) continue;
            CheckBothPasses({{N, B, T, H, reverse, time_major}, cell, number, exchange, kSmall},
                            seed);
          }
        }
      }
    }
  }
}

// Weights past the registers: in shared memory, and past that in L2.
void CheckWeightsBeyondRegisters() {
  struct Size {
    const char* cell;
    int64_t hidden;
    int shared_bytes;  // with room for one chunk of weights
  };
  for (const auto& [name, H, little] : {Size{"lstm", 165, 40 << 10}, Size{"gru", 211, 44 << 10},
                                        Size{"elman_tanh", 290, 28 << 10}}) {
    const CellTraits& cell = *jp::FindCell(name);
    for (int shared_bytes : {little, 227 << 10}) {
      const DeviceFacts facts{80, 3, shared_bytes, 1, 16 << 20};
      const GpuCase c{
          {1, 2, 3, H, false, false}, cell, Precision::kFloat32, Exchange::kGridData, facts};
      const jp::Geometry pass =
          jp::PlanKernel({cell, false, c.number, 1, 2, H}, facts, jp::GpuResidency::kGrid).pass;
      CHECK(pass.shared_chunks > 0, c.name(), pass.shared_chunks);
      CHECK((pass.stream_chunks > 0) == (shared_bytes == little), c.name(), pass.stream_chunks);
      CheckBothPasses(c, static_cast<int>(H));
    }
  }
}

// The same result, bit for bit, however the blocks meet and however late they are.
void CheckExchangesAgree() {
  for (const CellTraits& cell : jp::kCells) {
    const Shape shape{1, 3, 6, 24, false, false};
    const auto run = [&](Exchange exchange, uint32_t seed) {
      auto arrays = jp::test::MakeArrays(shape, cell, jp::cpu::DType::kBfloat16, 5);
      auto buffers = std::make_unique<jp::test::Buffers>(arrays, cell);
      const GpuCase c{shape, cell, Precision::kBfloat16, exchange, kSmall};
      const std::string error =
          RunPass(c, buffers->forward(arrays, true), {.jitter_seed = seed, .max_delay_us = 50});
      CHECK(error.empty(), c.name(), error);
      return buffers;
    };
    const auto expected = run(Exchange::kGridData, 0);
    for (Exchange exchange : {Exchange::kGridData, Exchange::kGridBarrier}) {
      const auto got = run(exchange, 1);
      CHECK(got->outputs.SameBytes(expected->outputs), cell.name, static_cast<int>(exchange));
      CHECK(got->saved.SameBytes(expected->saved), cell.name, static_cast<int>(exchange));
    }
  }
}

}  // namespace

int main(int count, char** /*arguments*/) {
  CheckAllOptions(count > 1);
  CheckWeightsBeyondRegisters();
  CheckExchangesAgree();
  return jp::test::Finish("GPU kernels on the CPU");
}
