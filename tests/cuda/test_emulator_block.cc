// SPDX-License-Identifier: Apache-2.0
// What the emulator's intrinsics do inside a block.
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/arch.h"
#include "tests/native/check.h"

namespace {

using namespace jp::cuda;

// ---- Multiply: the fragments are built from the PTX ISA's own words, element by element.

struct Tile {
  float a[16][16], b[16][8], sum[16][8];
};
struct TileArgs {
  Tile* tile;
};

// A matrix element's register and place in it: "groupID = lane >> 2, threadID_in_group = lane % 4".
// a's row is groupID in registers 0 and 2, groupID + 8 in 1 and 3; a's column of element i (two to
// a register) is 2 threadID + (i & 1), and 8 more from element 4 on.
template <Precision kPrecision>
JP_KERNEL(32)
MultiplyTile(JP_CONSTANT TileArgs args) {
  Tile* const tile = args.tile;
  const int group = arch::Lane() >> 2, member = arch::Lane() % 4;
  const auto narrow = [](float value) -> uint32_t {
    return kPrecision == Precision::kBfloat16 ? arch::RoundToBfloat16(value)
                                              : arch::RoundToFloat16(value);
  };
  uint32_t a[4] = {}, b[2] = {};
  if constexpr (kPrecision == Precision::kTf32) {
    a[0] = arch::BitsOf(tile->a[group][member]);
    a[1] = arch::BitsOf(tile->a[group + 8][member]);
    a[2] = arch::BitsOf(tile->a[group][member + 4]);
    a[3] = arch::BitsOf(tile->a[group + 8][member + 4]);
    b[0] = arch::BitsOf(tile->b[member][group]);
    b[1] = arch::BitsOf(tile->b[member + 4][group]);
  } else {
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = member * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[i / 2] |= narrow(tile->a[row][column]) << 16 * (i & 1);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = member * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      b[i / 2] |= narrow(tile->b[row][group]) << 16 * (i & 1);
    }
  }
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = tile->sum[group + (i < 2 ? 0 : 8)][member * 2 + (i & 1)];
  arch::Multiply<kPrecision>(sum, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) tile->sum[group + (i < 2 ? 0 : 8)][member * 2 + (i & 1)] = sum[i];
}

template <Precision kPrecision>
void Multiply() {
  constexpr int kDepth = kPrecision == Precision::kTf32 ? 8 : 16;
  const auto exact = [](float value) {
    if (kPrecision == Precision::kBfloat16) return arch::FromBfloat16(arch::RoundToBfloat16(value));
    if (kPrecision == Precision::kFloat16) return arch::FromFloat16(arch::RoundToFloat16(value));
    return arch::FloatOf(arch::BitsOf(value) & ~0x1fffu);  // cut, not rounded
  };
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  Tile tile;
  for (auto& row : tile.a) {
    for (float& value : row) value = normal(random);
  }
  for (auto& row : tile.b) {
    for (float& value : row) value = normal(random);
  }
  for (auto& row : tile.sum) {
    for (float& value : row) value = normal(random);
  }
  const Tile before = tile;
  const std::string said = emulator::Launch(MultiplyTile<kPrecision>, {&tile}, {1, 1, 32, 0});
  CHECK(said.empty(), said);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      double sum = before.sum[row][column];
      for (int k = 0; k < kDepth; ++k) {
        sum += double{exact(before.a[row][k])} * exact(before.b[k][column]);
      }
      CHECK(std::fabs(tile.sum[row][column] - sum) < 1e-5, row, column, tile.sum[row][column], sum);
    }
  }
}

// ---- Shuffles, and where a thread is

struct Words {
  uint32_t* words;
};

JP_KERNEL(96) Places(JP_CONSTANT Words args) {
  const int lane = arch::Lane(), thread = arch::ThreadIndex();
  uint32_t* const mine = args.words + 6 * (arch::BlockIndex() * 96 + thread);
  mine[0] = static_cast<uint32_t>(100 * arch::BlockIndex() + thread);
  mine[1] = static_cast<uint32_t>(arch::Warp());
  mine[2] = static_cast<uint32_t>(arch::Shuffle(thread, lane + 5));  // modulo 32
  mine[3] = arch::BitsOf(arch::ShuffleXor(static_cast<float>(thread), 12));
  mine[4] = static_cast<uint32_t>(arch::Shuffle(thread, 7));
  mine[5] = arch::Lane() == lane;
}

void Shuffles() {
  std::vector<uint32_t> words(2 * 96 * 6);
  const std::string said =
      emulator::Launch(Places, {words.data()}, {2, 1, 96, 0}, {.jitter_seed = 9});
  CHECK(said.empty(), said);
  for (uint32_t block = 0; block < 2; ++block) {
    for (uint32_t thread = 0; thread < 96; ++thread) {
      const uint32_t* const mine = &words[6 * (96 * block + thread)];
      const uint32_t warp = thread / 32, lane = thread % 32;
      CHECK(mine[0] == 100 * block + thread && mine[1] == warp && mine[5] == 1, block, thread);
      CHECK(mine[2] == 32 * warp + (lane + 5) % 32, thread, mine[2]);
      CHECK(arch::FloatOf(mine[3]) == static_cast<float>(thread ^ 12), thread, mine[3]);
      CHECK(mine[4] == 32 * warp + 7, thread, mine[4]);
    }
  }
}

// ---- Named barriers: warps 0 and 1 hand a value to 2 and 3 and back, each pair meeting on its
// own too, many times over one place of memory.

JP_KERNEL(128) PingPong(JP_CONSTANT Words args) {
  auto* const shared = reinterpret_cast<uint32_t*>(arch::SharedMemory());
  const bool first = arch::ThreadIndex() < 64;
  const int mine = arch::ThreadIndex() % 64, other = 63 - mine;
  uint32_t value = static_cast<uint32_t>(mine);
  for (int round = 0; round < 20; ++round) {
    if (first) shared[mine] = value + 1;
    arch::SyncNamed(1, 128);
    if (!first) {
      value = shared[other] + 1;
      arch::SyncNamed(2, 64);
      shared[mine] = value;
      arch::SyncNamed(2, 64);
    }
    arch::SyncNamed(15, 128);
    if (first) {
      value = shared[other];
      arch::SyncNamed(3, 64);
    }
  }
  args.words[arch::ThreadIndex()] = value;
}

void NamedBarriers() {
  std::vector<uint32_t> words(128);
  const std::string said =
      emulator::Launch(PingPong, {words.data()}, {1, 1, 128, 256}, {.jitter_seed = 4});
  CHECK(said.empty(), said);
  for (uint32_t i = 0; i < 64; ++i) CHECK(words[i] == i + 40, i, words[i]);
}

}  // namespace

int main() {
  Multiply<Precision::kBfloat16>();
  Multiply<Precision::kFloat16>();
  Multiply<Precision::kTf32>();
  Shuffles();
  NamedBarriers();
  return jp::test::Finish("emulator: inside a block");
}
