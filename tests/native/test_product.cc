// SPDX-License-Identifier: Apache-2.0
// Products of two matrices against sums in double, on every instruction set and by any number of
// workers, and with the right one packed before.
#include <cmath>
#include <string>
#include <vector>

#include "native/cpu/product_plan.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/run.h"

namespace {

using jp::DType;
using jp::Product;
using jp::cpu::Isa;
using jp::test::Buffer;

std::vector<double> Drawn(int64_t count, int64_t seed) {
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>((i * 7919 + seed) % 241 - 120) / 128;
  }
  return values;
}

void MultiplyOn(const Isa& isa, const Product& product, int threads, Buffer& left, Buffer& right,
                Buffer& result) {
  jp::cpu::CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  facts.waking = 0;  // or the small products here would have one worker
  const jp::cpu::ProductPlan plan = PlanProduct(product, facts);
  Buffer memory(DType::kFloat32, plan.Bytes() / sizeof(float));  // of NaN
  const auto floats = [](Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); };
  const jp::cpu::ProductCall call{product,       plan,           floats(left),
                                  floats(right), floats(result), floats(memory)};
  jp::cpu::Team::Run(plan.workers, 1, jp::test::OnHelpers(),
                     [&](int worker, int64_t) { isa.multiply(call, worker); });
  CHECK(memory.Intact(), isa.name, threads);
}

// Few rows, which read the right matrix where it lies, in one chunk and in several, and in several
// runs of columns; a depth of several parts, panels that are full and not, fewer than workers.
constexpr int64_t kSizes[][3] = {{1, 2, 1},    {3, 4, 5},      {129, 34, 97},   {128, 64, 64},
                                 {5, 18, 300}, {260, 130, 31}, {1, 1100, 70},   {129, 1046, 97},
                                 {2, 8, 64},   {17, 50, 1100}, {49, 1046, 100}, {48, 1046, 100},
                                 {1, 6, 4500}, {3, 6, 1500},   {7, 6, 1300}};

void TestProducts(const Isa& isa) {
  for (const auto& [rows, depth, columns] : kSizes) {
    const std::vector<double> left = Drawn(rows * depth, 5), right = Drawn(depth * columns, 77);
    for (int way = 0; way < 4; ++way) {
      const Product product{rows, depth, columns, way % 2 != 0, way / 2 != 0};
      Buffer l(DType::kFloat32, left), r(DType::kFloat32, right);
      Buffer alone(DType::kFloat32, rows * columns);
      MultiplyOn(isa, product, 1, l, r, alone);
      const std::vector<double> got = alone.values();
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
          double sum = 0;
          for (int64_t k = 0; k < depth; ++k) {
            sum += left[product.left_transposed ? k * rows + m : m * depth + k] *
                   right[product.right_transposed ? n * depth + k : k * columns + n];
          }
          const double limit = 1e-6 * static_cast<double>(depth);
          CHECK(std::fabs(got[m * columns + n] - sum) <= limit, isa.name, way, m, n,
                got[m * columns + n], sum);
        }
      }
      CHECK(alone.Intact() && l.Intact() && r.Intact(), isa.name, rows, depth, columns);
      const auto check_same = [&](const Product& same, Buffer& of, int threads) {
        Buffer together(DType::kFloat32, rows * columns);
        MultiplyOn(isa, same, threads, l, of, together);
        CHECK(together.SameBytes(alone), isa.name, rows, depth, columns, way, threads);
        CHECK(together.Intact() && of.Intact(), isa.name, threads, same.packed_lanes);
      };
      for (int threads : {2, 3, 5}) check_same(product, r, threads);
      if (product.right_transposed) continue;
      const jp::Packing packing{DType::kFloat32, 1, 1, depth, columns, isa.lanes};
      Buffer panels(DType::kFloat32, jp::PackedValues(packing));
      jp::test::PackOn(isa, packing, 1, r.data(), panels.data());
      Product packed = product;
      packed.packed_lanes = isa.lanes;
      for (int threads : {1, 2, 5}) check_same(packed, panels, threads);
    }
  }
}

// Of several heads each has panels of its own, which fewer or more workers divide.
constexpr int64_t kHeads[][4] = {{3, 2, 6, 5}, {2, 129, 34, 97}, {5, 31, 600, 64}, {8, 16, 18, 16}};

void TestHeads(const Isa& isa) {
  for (const auto& [heads, rows, depth, columns] : kHeads) {
    const std::vector<double> left = Drawn(depth * heads * rows, 5);
    const std::vector<double> right = Drawn(depth * heads * columns, 77);
    Buffer l(DType::kFloat32, left), r(DType::kFloat32, right);
    Product product{rows, depth, columns, true, false};
    product.heads = heads;
    Buffer alone(DType::kFloat32, heads * rows * columns);
    MultiplyOn(isa, product, 1, l, r, alone);
    const std::vector<double> got = alone.values();
    for (int64_t i = 0; i < heads * rows * columns; ++i) {
      const int64_t head = i / (rows * columns), m = i / columns % rows, n = i % columns;
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += left[(k * heads + head) * rows + m] * right[(k * heads + head) * columns + n];
      }
      const double limit = 1e-6 * static_cast<double>(depth);
      CHECK(std::fabs(got[i] - sum) <= limit, isa.name, heads, i, got[i], sum);
    }
    CHECK(alone.Intact() && l.Intact() && r.Intact(), isa.name, heads);
    for (int threads : {2, 3, 7}) {
      Buffer together(DType::kFloat32, heads * rows * columns);
      MultiplyOn(isa, product, threads, l, r, together);
      CHECK(together.SameBytes(alone) && together.Intact(), isa.name, heads, threads);
    }
  }
}

}  // namespace

int main() {
  for (const Isa* isa : jp::test::IsasHere()) {
    TestProducts(*isa);
    TestHeads(*isa);
  }
  return jp::test::Finish("product");
}
