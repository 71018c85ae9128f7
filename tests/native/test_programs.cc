// SPDX-License-Identifier: Apache-2.0
// Random programs against a plain interpreter, for any number of workers, with matrices that the
// program packs and with the same packed before; and what is no program.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/cpu/program_plan.h"
#include "native/programs/program.h"
#include "tests/native/arrays.h"
#include "tests/native/check.h"
#include "tests/native/drawn_program.h"
#include "tests/native/isas.h"
#include "tests/native/program_interpreter.h"
#include "tests/native/run.h"

namespace jp::test {
namespace {

#if defined(JP_FEW_CASES)
constexpr unsigned kCases = 30;
#else
constexpr unsigned kCases = 90;
#endif

// The operands of the program with plain matrices as those of the same with packed ones.
ProgramArrays Packed(const cpu::Isa& isa, const Program& p, ProgramArrays arrays) {
  for (int64_t i = 0; i < p.consts; ++i) {
    const ProgramArray& array = p.operands[i];
    if (!array.is_packed) continue;
    const Packing packing{array.type == ValueType::kFloat32 ? DType::kFloat32 : DType::kBfloat16,
                          1,
                          array.has_groups ? p.groups : 1,
                          array.features / array.columns,
                          array.columns,
                          isa.lanes};
    Values to = MakeValues(array, SizeOf(p, array, 1));
    PackOn(isa, packing, 1, arrays.operands[i].bytes.data(), to.bytes.data());
    arrays.operands[i] = to;
  }
  return arrays;
}

int by_units = 0, by_rows = 0, in_place = 0, packing = 0;

void RunOn(const cpu::Isa& isa, const Program& program, int workers, bool splits_batch,
           ProgramArrays& arrays) {
  cpu::CpuFacts facts{workers, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  facts.units = units;
  const cpu::ProgramPlan plan = cpu::PlanProgram(program, facts, workers, splits_batch);
  if (workers > 1) ++(splits_batch ? by_rows : by_units);
  in_place += plan.in_place_bytes > 0;
  packing += plan.packed_bytes > 0 && program.packed_lanes == 0;
  std::vector<uint8_t> memory(plan.bytes + 63, 0xff);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  std::vector<const void*> operands;
  std::vector<void*> results;
  for (const Values& o : arrays.operands) operands.push_back(o.bytes.data());
  for (Values& r : arrays.results) {
    std::fill(r.bytes.begin(), r.bytes.end(), 0);
    results.push_back(r.bytes.data());
  }
  const cpu::ProgramCall call{program, plan, operands.data(), results.data(),
                              reinterpret_cast<char*>(memory.data()) + (64 - address % 64) % 64};
  cpu::Team::Run(plan.workers, program.groups * plan.phases, OnHelpers(),
                 [&](int worker, int64_t phase) { isa.program(call, worker, phase); });
}

// Results of programs with packed matrices are those of one worker with plain ones.
void TestPacked(const cpu::Isa& isa, const Program& program, const ProgramArrays& plain,
                unsigned seed) {
  ProgramArrays arrays = Packed(isa, program, plain);
  for (int workers = 1; workers <= 3; ++workers) {
    for (const bool splits_batch : {false, true}) {
      if (splits_batch && (workers == 1 || workers > program.rows)) continue;
      RunOn(isa, program, workers, splits_batch, arrays);
      for (size_t r = 0; r < plain.results.size(); ++r) {
        CHECK(plain.results[r].bytes == arrays.results[r].bytes, isa.name, seed, workers,
              splits_batch, "differs where matrices are packed before", r);
      }
    }
  }
}

void TestRandomPrograms() {
  int packed = 0;
  for (unsigned seed = 0; seed < kCases; ++seed) {
    Drawn drawn(seed);
    const Program program = drawn.Draw();
    packed += drawn.HasMatrices();
    ProgramArrays arrays = MakeArrays(program, seed);
    const auto expected = Interpreter(program, arrays).Run();
    for (const cpu::Isa* isa : IsasHere()) {
      const std::vector<cpu::Units> all = UnitsOf(*isa);
      units = all[seed % all.size()];
      std::vector<Values> first;
      for (int workers = 1; workers <= 3; ++workers) {
        for (const bool splits_batch : {false, true}) {
          if (splits_batch && (workers == 1 || workers > program.rows)) continue;
          RunOn(*isa, program, workers, splits_batch, arrays);
          for (size_t r = 0; r < expected.size(); ++r) {
            for (size_t i = 0; i < expected[r].size(); ++i) {
              const double e = expected[r][i], found = arrays.results[r].Get(i);
              if (std::isnan(e)) continue;  // no step stores there
              const bool is_bool = arrays.results[r].type == ValueType::kBool;
              const bool rounds = units != cpu::Units::kWidened;  // what products read
              const bool is_short = arrays.results[r].type == ValueType::kBfloat16;
              const double tolerance = is_short || rounds ? 0.02 : 1e-3;
              const bool good = is_bool ? found == (std::abs(e) > 0)
                                        : std::abs(found - e) <= tolerance * (1 + std::abs(e));
              CHECK(good || (is_bool && std::abs(e) < 1e-6), isa->name, seed, workers, splits_batch,
                    r, i, found, e);
            }
          }
          if (first.empty()) first = arrays.results;
          for (size_t r = 0; r < first.size(); ++r) {
            CHECK(first[r].bytes == arrays.results[r].bytes, isa->name, seed, workers, splits_batch,
                  "differs from one worker's", r);
          }
        }
      }
      if (drawn.HasMatrices()) {
        arrays.results = first;
        TestPacked(*isa, drawn.Packed(isa->lanes), arrays, seed);
      }
    }
  }
  CHECK(by_units > 0 && by_rows > 0 && packed > 5, by_units, by_rows, packed);
  CHECK(in_place > 20 && packing > 20, in_place, packing);
}

// Programs with one number changed are refused, or stay within their arrays: sanitizers look.
void TestWrongPrograms() {
  const cpu::Isa& isa = *IsasHere().front();
  int refused = 0, ran = 0;
  std::mt19937 random(1);
  for (unsigned seed = 0; seed < 4 * kCases; ++seed) {
    Drawn drawn(seed % 20);
    drawn.Draw();
    std::vector<int64_t> code = drawn.code;
    const size_t at = std::uniform_int_distribution<size_t>(0, code.size() - 1)(random);
    code[at] += std::uniform_int_distribution<int>(0, 1)(random) ? 1 : -1;
    if (seed % 5 == 0) code.resize(at);
    try {
      const int64_t lanes = seed % 2 != 0 && drawn.HasMatrices() ? isa.lanes : 0;
      const Program changed = drawn.Parse(code, lanes);
      ProgramArrays arrays = MakeArrays(changed, seed);
      RunOn(isa, changed, 1, false, arrays);
      ++ran;
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()).starts_with("program: "), error.what());
      ++refused;
    }
  }
  CHECK(refused > 20 && ran > 5, refused, ran);
}

// What a worker has of its own units: a loop of several neither multiplies nor stores a row's
// value.
void TestRowsInPlaceOfUnits() {
  using enum Operation;
  const auto parses = [](int64_t width, int64_t product, int64_t stored) {
    // A matrix [width, width] and the carry, which it multiplies.
    std::vector<int64_t> code = {2, 1, 1, 0, width * width, 0, width, 0, 1, width, 1, 0, 1, 1};
    code.insert(code.end(), {width, 1, 1, 1, 0, 0, width, 1, 0, 1, 0, 0, 1, width, 1, 2});
    code.insert(code.end(), {static_cast<int64_t>(kLoadProduct), product, 0, 0, 0, 0});
    code.insert(code.end(), {static_cast<int64_t>(kStoreBuffer), stored, 0, 0, 0, 0});
    try {
      ParseProgram(code, std::vector<float>{0.5f}, std::vector<int64_t>{0, 3}, 1, 1, 1, false);
      return true;
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()) == "program: a row's value in place of units", error.what());
      return false;
    }
  };
  CHECK(parses(4, 0, 0) && parses(1, kOfRows, kOfRows) && parses(1, 0, kOfLiterals), "refused");
  CHECK(!parses(4, kOfRows, kOfRows) && !parses(4, 0, kOfLiterals), "not refused");
}

}  // namespace
}  // namespace jp::test

int main() {
  jp::test::TestRandomPrograms();
  jp::test::TestWrongPrograms();
  jp::test::TestRowsInPlaceOfUnits();
  return jp::test::Finish("programs");
}
