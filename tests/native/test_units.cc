// SPDX-License-Identifier: Apache-2.0
// Products of bfloat16 by dot products of pairs and by tiles, against sums in double and against
// the product with widened weights: rows, depth and columns of every remainder. Built for
// processors without them, where twins in C++ run in their place, and for AVX-512, where the tiles'
// does.
#define JP_VECTOR_BYTES 64
#define JP_VECTOR_REGISTERS 32
#include "native/cpu/matrix_tiles.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/native/check.h"

namespace {

namespace kernels = jp::cpu::JP_ISA;
using jp::cpu::bfloat16;
using jp::cpu::Units;
using kernels::Accumulator;
using kernels::kLanes;
using kernels::Traversal;

float Float(bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Values of a few bits and of several sizes, the same at each call.
bfloat16 Drawn(int64_t i) {
  const int64_t mixed = (i * 7919 + 13) % 509;
  const float value = static_cast<float>(mixed % 127 - 63) * (mixed % 5 == 0 ? 4.0f : 0.0625f);
  return {static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)};
}

struct Product {
  int64_t rows, depth, begin, count;  // `count` of the depth, from `begin` on
  int vectors;                        // across the panel
  int64_t used;                       // of which have weights
  Traversal traversal;
  int sums;  // what it is added to: nothing, one row for all, rows of their own

  std::string name() const {
    std::string text;
    for (int64_t n : {rows, depth, begin, count, int64_t{vectors}, used}) {
      text += std::to_string(n) + " ";
    }
    return text + (traversal == Traversal::kForwards ? "forwards " : "backwards ") +
           std::to_string(sums);
  }
};

struct Data {
  std::vector<bfloat16> left, panel;
  std::vector<float> wide, sums;
  int64_t stride, width;

  explicit Data(const Product& p)
      : stride((p.depth + 31) / 32 * 32 + 32), width(p.vectors * kLanes) {
    // What is behind a row's last value is nothing to multiply with.
    left.assign(p.rows * stride, bfloat16{0x7fc0});
    wide.assign(p.rows * stride, std::nanf(""));
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t k = 0; k < p.depth; ++k) {
        left[r * stride + k] = Drawn(r * p.depth + k);
        wide[r * stride + k] = Float(left[r * stride + k]);
      }
    }
    for (int64_t i = 0; i < p.depth * width; ++i) panel.push_back(Drawn(3 * i + 1));
    for (int64_t i = 0; i < p.rows * width; ++i) sums.push_back(Float(Drawn(5 * i + 2)));
  }
  double Weight(int64_t k, int64_t column) const {
    return Float(panel[(k / 2 * width + column) * 2 + k % 2]);
  }
  Accumulator SumsOf(const Product& p) const {
    return {p.sums == 0 ? nullptr : sums.data(), p.sums == 1 ? 0 : width};
  }
};

constexpr int64_t kGuard = 5;  // floats behind each row of a result

std::vector<float> Multiply(const Product& p, const Data& data, Units units, int64_t first,
                            int64_t rows) {
  std::vector<float> out(p.rows * (data.width + kGuard), std::nanf(""));
  Accumulator sums = data.SumsOf(p);
  if (sums.at != nullptr) sums.at += first * sums.stride;
  float* const to = out.data() + first * (data.width + kGuard);
  const bfloat16* const panel = data.panel.data() + p.begin * data.width;
  if (units == Units::kWidened) {
    std::vector<const float*> in;
    for (int64_t r = 0; r < rows; ++r) in.push_back(data.wide.data() + (first + r) * data.stride);
    kernels::Multiply(p.vectors, p.used, in.data(), rows, false, p.begin, p.count, panel,
                      static_cast<const bfloat16*>(nullptr), p.traversal, sums, to,
                      data.width + kGuard);
  } else {
    kernels::MatrixTiles tiles;
    const kernels::RoundedRows in = {data.left.data() + first * data.stride, data.stride};
    kernels::MultiplyByUnits(units, tiles, p.vectors, p.used, in, rows, p.begin, p.count, panel,
                             panel, p.traversal, sums, to, data.width + kGuard);
  }
  return out;
}

void CheckProduct(const Product& p, Units units) {
  const Data data(p);
  const auto got = Multiply(p, data, units, 0, p.rows);
  const auto widened = Multiply(p, data, Units::kWidened, 0, p.rows);
  const int64_t stride = data.width + kGuard, columns = (p.used < p.vectors ? p.used : p.vectors);
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < columns * kLanes; ++c) {
      double sum = p.sums == 0 ? 0 : data.sums[(p.sums == 1 ? 0 : r) * data.width + c];
      double size = std::fabs(sum);
      for (int64_t k = p.begin; k < p.begin + p.count; ++k) {
        const double product = Float(data.left[r * data.stride + k]) * data.Weight(k, c);
        sum += product;
        size += std::fabs(product);
      }
      // A rounding for each term: the products themselves are exact.
      const double limit = static_cast<double>(p.count + 1) * size * 0x1p-24;
      const float found = got[r * stride + c];
      CHECK(std::fabs(found - sum) <= limit, p.name(), r, c, found, sum);
      CHECK(std::fabs(found - widened[r * stride + c]) <= 2 * limit, p.name(), r, c, found);
    }
    for (int64_t c = data.width; c < stride; ++c) {
      CHECK(std::isnan(got[r * stride + c]), p.name(), r, c, "is written to");
    }
  }
  // Rows do not depend on their neighbours.
  const int64_t first = p.rows / 3, rows = (p.rows - first + 1) / 2;
  const auto some = Multiply(p, data, units, first, rows);
  for (int64_t r = first; r < first + rows; ++r) {
    for (int64_t c = 0; c < columns * kLanes; ++c) {
      CHECK(got[r * stride + c] == some[r * stride + c], p.name(), r, c, "differs among others");
    }
  }
}

void TestProducts(Units units) {
  constexpr int64_t kDepths[][3] = {{2, 0, 2},   {6, 0, 6},    {34, 0, 34},  {98, 32, 64},
                                    {66, 0, 66}, {94, 64, 30}, {128, 0, 128}};
  constexpr int64_t kPanels[][2] = {{3, 9}, {4, 1}, {4, 2}, {4, 4}, {5, 5}, {6, 7}};
  int nth = 0;
  for (int64_t rows = 1; rows <= 34; ++rows) {
    for (const auto& [depth, begin, count] : kDepths) {
      for (const auto& [vectors, used] : kPanels) {
        ++nth;
        if (rows > 1 && rows % 16 > 1 && nth % 3 != 0) continue;
        CheckProduct({rows, depth, begin, count, static_cast<int>(vectors), used,
                      nth % 2 == 0 ? Traversal::kForwards : Traversal::kBackwards, nth % 7 % 3},
                     units);
      }
    }
  }
  CheckProduct({101, 66, 0, 66, 4, 4, Traversal::kForwards, 2}, units);
}

}  // namespace

int main() {
#if defined(__AVX512F__)
  const bool has_pairs = __builtin_cpu_supports("avx512bf16");
  if (!__builtin_cpu_supports("avx512bw")) return 77;
#else
  const bool has_pairs = true;
#endif
  if (has_pairs) TestProducts(Units::kPairs);
  TestProducts(Units::kTiles);
  return jp::test::Finish("units");
}
