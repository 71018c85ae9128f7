// SPDX-License-Identifier: Apache-2.0
// Random programs against a plain interpreter, for any number of workers, with matrices that the
// program packs and with the same packed before; and what is no program.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/cpu/program_plan.h"
#include "native/programs/program.h"
#include "tests/native/arrays.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/run.h"

namespace jp::test {
namespace {

#if defined(JP_FEW_CASES)
constexpr unsigned kCases = 30;
#else
constexpr unsigned kCases = 90;
#endif
constexpr int64_t kOfRows = 1 << 16, kOfLiterals = 2 << 16;

// Draws a program as program.py would encode it.
class Drawn {
 public:
  explicit Drawn(unsigned seed) : random_(seed) {}

  int64_t Any(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  bool Maybe() { return Any(0, 1) == 1; }

  Program Draw() {
    steps = Any(1, 4), groups = Any(1, 2), rows = Any(1, 5);
    for (int64_t i = Any(1, 2); i > 0; --i) {
      carries_.push_back({Any(1, 40), Any(0, 2)});
      buffers_.push_back(carries_.back()[0]);
    }
    carries_[0][1] = 0;
    xs_ = {{Any(41, 60), 0}, {1, 2}, {Any(41, 60), 1}};
    consts_ = {{Any(41, 60), 0}};
    literals = {0.5f, -1.0f};
    const bool early = Maybe();
    if (early) EarlyStage();
    const int64_t middle = Any(0, 2);
    for (int64_t i = 0; i < middle; ++i) Stage({Any(1, 40)}, false);
    std::vector<int64_t> widths;
    for (const auto& carry : carries_) widths.push_back(carry[0]);
    Stage(widths, true);
    Write(early);
    reverse_ = Maybe();
    return ParseProgram(code, literals, layouts, steps, groups, rows, reverse_);
  }

  // The same with packed matrices where it can have them.
  Program Packed(int64_t lanes) const { return Parse(code, lanes); }
  // Another code in its place.
  Program Parse(const std::vector<int64_t>& other, int64_t lanes) const {
    std::vector<int64_t> with = layouts;
    for (const int64_t matrix : matrices_) with[matrix] += lanes == 0 ? 0 : 4;
    return ParseProgram(other, literals, with, steps, groups, rows, reverse_, false, lanes);
  }
  bool HasMatrices() const { return !matrices_.empty(); }

  std::vector<int64_t> code, layouts;
  std::vector<float> literals;
  int64_t steps, groups, rows;

 private:
  using Ints = std::vector<int64_t>;

  // A first stage that each worker runs for its own units: the carry, or zeros where a flag is set.
  void EarlyStage() {
    const int64_t width = carries_[0][0], to = NewBuffer(width);
    ready_.push_back(to);
    Ints loop{width, 3, 1, 0, 4};
    Add(loop, {Operation::kLoadBuffer}, {0, 0, 0});
    Add(loop, {Operation::kLoadOperand}, {kOfRows, Operand(1), 0});
    Add(loop, {Operation::kSelect}, {1, kOfRows, 0, kOfLiterals});
    Add(loop, {Operation::kStoreBuffer}, {1, to, 0});
    stages_.push_back({loop});
  }

  int64_t NewBuffer(int64_t width) {
    buffers_.push_back(width);
    return static_cast<int64_t>(buffers_.size()) - 1;
  }
  // The place of one of the xs among the operands; it is known when all constants are.
  int64_t Operand(int64_t x) const { return -1 - x; }

  static void Add(Ints& loop, std::initializer_list<Operation> op, Ints rest) {
    loop.push_back(static_cast<int64_t>(*op.begin()));
    rest.resize(5);
    loop.insert(loop.end(), rest.begin(), rest.end());
  }

  void Stage(const Ints& widths, bool last) {
    std::vector<Ints> loops;
    Ints written;
    for (size_t i = 0; i < widths.size(); ++i) {
      const int64_t width = widths[i];
      int64_t to = static_cast<int64_t>(i);
      if (!last) written.push_back(to = NewBuffer(width));
      loops.push_back(Loop(width, to));
    }
    ready_.insert(ready_.end(), written.begin(), written.end());
    stages_.push_back(loops);
  }

  Ints Loop(int64_t width, int64_t to) {
    Ints slices, instructions, values;
    int64_t units = 0, row_values = 0, count = 0;
    const int64_t slice_count = Any(0, 2);
    const int64_t kind = width == 1 ? kOfRows : 0;
    const auto next = [&](int64_t of) { return of + (of == 0 ? units++ : row_values++); };
    const auto add = [&](Operation op, Ints rest) {
      Add(instructions, {op}, std::move(rest));
      ++count;
    };
    for (int64_t s = 0; s < slice_count; ++s) {
      const int64_t buffer = Source(), k = buffers_[buffer], gates = Any(1, 3);
      const bool part = k > 4 && Maybe(), one_matrix = Maybe();
      const int64_t offset = part ? 1 : 0, heads = one_matrix ? 1 : Heads(width, k - offset);
      const int64_t taken = heads > 1 ? (k - offset) / heads / 2 * 2 : part ? (k - 1) / 2 * 2 : k;
      const int64_t columns = width / heads;
      slices.insert(slices.end(), {buffer, offset, taken, heads, s % 2, gates});
      const int64_t type = Any(0, 1), of_matrix = columns + Any(0, 120);
      if (one_matrix) {
        matrices_.push_back(static_cast<int64_t>(consts_.size()));
        consts_.push_back({taken * of_matrix, type});
      }
      for (int64_t g = 0; g < gates; ++g) {
        if (one_matrix) {
          const int64_t base = Any(0, of_matrix - columns);
          slices.insert(slices.end(), {matrices_.back(), base, taken * of_matrix, of_matrix, 1});
          values.push_back(next(kind));
          add(Operation::kLoadProduct, {values.back(), s, g});
          continue;
        }
        const bool transposed = Maybe();
        const int64_t row = transposed ? 1 : columns + Any(0, 3), column = transposed ? taken : 1;
        const int64_t base = Any(0, 5), head = taken * columns + Any(0, 2);
        const int64_t last = (heads - 1) * head + (taken - 1) * row + (columns - 1) * column;
        consts_.push_back({base + last + 1, type});
        slices.insert(slices.end(),
                      {static_cast<int64_t>(consts_.size()) - 1, base, head, row, column});
        values.push_back(next(kind));
        add(Operation::kLoadProduct, {values.back(), s, g});
      }
    }
    const int64_t operands[] = {Operand(0), Operand(1), Operand(2), 0};
    for (const int64_t operand : operands) {
      const int64_t of = operand == Operand(1) ? kOfRows : kind;
      values.push_back(next(of));
      add(Operation::kLoadOperand, {values.back(), operand, operand == Operand(1) ? 0 : Any(0, 1)});
    }
    const int64_t source = Source();
    if (buffers_[source] >= width) {
      values.push_back(next(kind));
      add(Operation::kLoadBuffer, {values.back(), source, buffers_[source] - width});
    }
    values.push_back(next(kOfRows));
    add(Operation::kReduce, {values.back(), source, 0, buffers_[source], Any(0, 2)});
    for (int64_t i = Any(3, 8); i > 0; --i) {
      const Operation ops[] = {Operation::kAdd,      Operation::kSub, Operation::kMul,
                               Operation::kMax,      Operation::kMin, Operation::kTanh,
                               Operation::kLogistic, Operation::kNeg, Operation::kSelect};
      const Operation op = ops[Any(0, 8)];
      const auto any = [&] { return Any(0, 9) == 0 ? kOfLiterals + Any(0, 1) : Pick(values); };
      Ints read{any()};
      const int64_t arity = op == Operation::kSelect ? 3 : op <= Operation::kMin ? 2 : 1;
      while (static_cast<int64_t>(read.size()) < arity) read.push_back(any());
      const bool of_units =
          kind == 0 && std::any_of(read.begin(), read.end(), [](int64_t r) { return r < kOfRows; });
      values.push_back(next(of_units ? 0 : kOfRows));
      read.insert(read.begin(), values.back());
      add(op, read);
    }
    int64_t result = Pick(values);
    const auto as_units = [&](int64_t value) {
      if (kind != 0 || value < kOfRows) return value;
      add(Operation::kSplat, {next(0), value});
      return units - 1;
    };
    result = as_units(result);
    const int64_t bounded = next(result < kOfRows ? 0 : kOfRows);
    add(Operation::kTanh, {bounded, result});
    add(Operation::kStoreBuffer, {bounded, to, 0});
    if (Maybe()) {
      ys_.push_back({width + Any(0, 3), Any(0, 2)});
      const int64_t y = static_cast<int64_t>(ys_.size()) - 1;
      add(Operation::kStoreY, {as_units(Pick(values)), y, Any(0, ys_[y][0] - width)});
    }
    Ints loop{width, units, row_values, slice_count};
    loop.insert(loop.end(), slices.begin(), slices.end());
    loop.push_back(count);
    loop.insert(loop.end(), instructions.begin(), instructions.end());
    return loop;
  }

  // How many heads a product of so many features has in a loop of a width; often one.
  int64_t Heads(int64_t width, int64_t features) {
    const int64_t heads = Any(1, 3);
    return width % heads == 0 && features >= 2 * heads ? heads : 1;
  }

  int64_t Pick(const Ints& values) {
    return values[Any(0, static_cast<int64_t>(values.size()) - 1)];
  }
  // A buffer that can be read: a carry, or what an earlier stage has written.
  int64_t Source() {
    const int64_t n = Any(0, static_cast<int64_t>(carries_.size() + ready_.size()) - 1);
    const auto carries = static_cast<int64_t>(carries_.size());
    return n < carries ? n : ready_[n - carries];
  }

  void Write(bool early) {
    const auto first_x = static_cast<int64_t>(consts_.size() + carries_.size());
    code = {first_x + static_cast<int64_t>(xs_.size()), static_cast<int64_t>(consts_.size()),
            static_cast<int64_t>(carries_.size()), static_cast<int64_t>(ys_.size())};
    for (const auto* arrays : {&consts_, &carries_, &xs_, &ys_}) {
      for (const Ints& array : *arrays) code.insert(code.end(), array.begin(), array.end());
    }
    code.push_back(static_cast<int64_t>(buffers_.size()));
    for (size_t i = 0; i < buffers_.size(); ++i) {
      code.insert(code.end(), {buffers_[i], i < carries_.size()});
    }
    code.insert(code.end(), {early, static_cast<int64_t>(stages_.size())});
    for (const auto& loops : stages_) {
      code.push_back(static_cast<int64_t>(loops.size()));
      for (const Ints& loop : loops) {
        for (const int64_t number : loop)
          code.push_back(number < 0 ? first_x - 1 - number : number);
      }
    }
    for (int64_t i = 0; i < code[0]; ++i) {
      const bool is_carry = i >= code[1] && i < first_x;
      const bool is_matrix = i > 0 && i < code[1];
      layouts.push_back(is_carry ? 3 : is_matrix ? Any(0, 1) : Any(0, 3));
    }
  }

  std::mt19937 random_;
  bool reverse_ = false;
  Ints matrices_;  // constants of which one slice has some columns, of all rows
  std::vector<Ints> consts_, carries_, xs_, ys_;  // features, type
  Ints buffers_, ready_;
  std::vector<std::vector<Ints>> stages_;
};

// An array of a program in its own type, exactly as large as it is, and its values.
struct Values {
  ValueType type;
  std::vector<uint8_t> bytes;

  size_t Width() const {
    return type == ValueType::kFloat32 ? 4 : type == ValueType::kBfloat16 ? 2 : 1;
  }
  double Get(int64_t i) const {
    if (type == ValueType::kBool) return bytes[i];
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 4 - Width(), &bytes[i * Width()], Width());
    return std::bit_cast<float>(bits);
  }
  void Set(int64_t i, double value) {
    if (type == ValueType::kBool) {
      bytes[i] = value != 0;
      return;
    }
    const DType to = type == ValueType::kFloat32 ? DType::kFloat32 : DType::kBfloat16;
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(RoundedTo(to, value)));
    std::memcpy(&bytes[i * Width()], reinterpret_cast<const uint8_t*>(&bits) + 4 - Width(),
                Width());
  }
};

Values MakeValues(const ProgramArray& array, int64_t count) {
  Values values{array.type, {}};
  values.bytes.resize(count * values.Width());
  return values;
}

int64_t SizeOf(const Program& p, const ProgramArray& array, int64_t steps) {
  const int64_t k = array.is_packed ? array.features / array.columns : 0;
  const int64_t values =
      array.is_packed ? PackedMatrixValues(k, array.columns, p.packed_lanes) : array.features;
  return steps * (array.has_groups ? p.groups : 1) * (array.has_rows ? p.rows : 1) * values;
}

// Row b of group g at step t.
int64_t PlaceOf(const Program& p, const ProgramArray& array, int64_t t, int64_t g, int64_t b) {
  int64_t at = t;
  if (array.has_groups) at = at * p.groups + g;
  if (array.has_rows) at = at * p.rows + b;
  return at * array.features;
}

struct Arrays {
  std::vector<Values> operands, results;
};

Arrays MakeArrays(const Program& p, unsigned seed) {
  Arrays arrays;
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, 0.5);
  for (size_t i = 0; i < p.operands.size(); ++i) {
    const bool is_x = static_cast<int64_t>(i) >= p.consts + p.carries;
    const int64_t size = SizeOf(p, p.operands[i], is_x ? p.steps : 1);
    Values& values = arrays.operands.emplace_back(MakeValues(p.operands[i], size));
    for (int64_t k = 0; k < size; ++k) {
      const double value = normal(random);
      values.Set(k, values.type == ValueType::kBool ? value > 0 : value);
    }
  }
  for (int64_t i = 0; i < p.carries; ++i) {
    const ProgramArray& array = p.operands[p.consts + i];
    arrays.results.push_back(MakeValues(array, SizeOf(p, array, 1)));
  }
  for (ProgramArray y : p.ys) {
    y.has_groups = y.has_rows = true;
    arrays.results.push_back(MakeValues(y, SizeOf(p, y, p.steps)));
  }
  return arrays;
}

// The operands of the program with plain matrices as those of the same with packed ones.
Arrays Packed(const cpu::Isa& isa, const Program& p, Arrays arrays) {
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

// The results in double, one row and one unit after the other; those that no step stores stay NaN.
std::vector<std::vector<double>> Interpret(const Program& p, const Arrays& arrays) {
  std::vector<std::vector<double>> results;
  for (const Values& r : arrays.results) {
    results.emplace_back(r.bytes.size() / r.Width(), std::nan(""));
  }
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t b = 0; b < p.rows; ++b) {
      std::vector<std::vector<double>> now, next;
      for (const ProgramBuffer& buffer : p.buffers) now.emplace_back(buffer.width, std::nan(""));
      for (int64_t i = 0; i < p.carries; ++i) {
        const ProgramArray& array = p.operands[p.consts + i];
        for (int64_t u = 0; u < array.features; ++u) {
          now[i][u] = arrays.operands[p.consts + i].Get(PlaceOf(p, array, 0, g, b) + u);
        }
      }
      for (int64_t step = 0; step < p.steps; ++step) {
        const int64_t t = p.reverse ? p.steps - 1 - step : step;
        next = now;
        for (const auto& stage : p.stages) {
          for (const ProgramLoop& loop : stage) {
            for (int64_t unit = 0; unit < loop.width; ++unit) {
              std::vector<double> units(loop.registers), row_values(loop.row_registers);
              const auto at = [&](const Register& r) -> double {
                if (r.kind == RegisterKind::kLiteral) return p.literals[r.index];
                return r.kind == RegisterKind::kUnits ? units[r.index] : row_values[r.index];
              };
              for (const Instruction& i : loop.code) {
                const bool of_units = i.at[0].kind == RegisterKind::kUnits;
                const int64_t n = i.numbers[0], place = i.numbers[1] + (of_units ? unit : 0);
                double result = 0;
                const double a = i.op >= Operation::kSplat ? at(i.at[1]) : 0;
                switch (i.op) {
                  case Operation::kLoadOperand:
                    result = arrays.operands[n].Get(
                        PlaceOf(p, p.operands[n], n < p.consts ? 0 : t, g, b) + place);
                    break;
                  case Operation::kLoadBuffer: result = now[n][place]; break;
                  case Operation::kLoadProduct: {
                    const ProgramSlice& slice = loop.slices[n];
                    const GateMatrix& gate = slice.gates[i.numbers[1]];
                    const int64_t units_of_head = loop.width / slice.heads;
                    const int64_t head = unit / units_of_head, column = unit % units_of_head;
                    const int64_t from = PlaceOf(p, p.operands[gate.operand], 0, g, b) + gate.base +
                                         head * gate.head + column * gate.column;
                    for (int64_t k = 0; k < slice.k; ++k) {
                      result += now[slice.buffer][slice.offset + head * slice.k + k] *
                                arrays.operands[gate.operand].Get(from + k * gate.row);
                    }
                    break;
                  }
                  case Operation::kReduce:
                    result = now[n][i.numbers[1]];
                    for (int64_t k = 1; k < i.numbers[2]; ++k) {
                      const double value = now[n][i.numbers[1] + k];
                      result = i.numbers[3] == 0   ? result + value
                               : i.numbers[3] == 1 ? std::max(result, value)
                                                   : std::min(result, value);
                    }
                    break;
                  case Operation::kStoreY: {
                    ProgramArray y = p.ys[n];
                    y.has_groups = y.has_rows = true;
                    results[p.carries + n][PlaceOf(p, y, t, g, b) + place] = at(i.at[0]);
                    break;
                  }
                  case Operation::kStoreBuffer:
                    (p.buffers[n].is_carry ? next : now)[n][place] = at(i.at[0]);
                    break;
                  case Operation::kSplat: result = a; break;
                  case Operation::kSelect: result = a != 0 ? at(i.at[3]) : at(i.at[2]); break;
                  case Operation::kAdd: result = a + at(i.at[2]); break;
                  case Operation::kSub: result = a - at(i.at[2]); break;
                  case Operation::kMul: result = a * at(i.at[2]); break;
                  case Operation::kMax: result = std::max(a, at(i.at[2])); break;
                  case Operation::kMin: result = std::min(a, at(i.at[2])); break;
                  case Operation::kTanh: result = std::tanh(a); break;
                  case Operation::kLogistic: result = 1 / (1 + std::exp(-a)); break;
                  case Operation::kNeg: result = -a; break;
                  default: throw std::logic_error("not drawn");
                }
                if (i.op == Operation::kStoreY || i.op == Operation::kStoreBuffer) continue;
                (of_units ? units : row_values)[i.at[0].index] = result;
              }
            }
          }
        }
        for (int64_t i = 0; i < p.carries; ++i) now[i] = next[i];
      }
      for (int64_t i = 0; i < p.carries; ++i) {
        const ProgramArray& array = p.operands[p.consts + i];
        for (int64_t u = 0; u < array.features; ++u) {
          results[i][PlaceOf(p, array, 0, g, b) + u] = now[i][u];
        }
      }
    }
  }
  return results;
}

int by_units = 0, by_rows = 0;

void RunOn(const cpu::Isa& isa, const Program& program, int workers, bool splits_batch,
           Arrays& arrays) {
  cpu::CpuFacts facts{workers, isa.lanes, isa.registers, 1 << 20, 32 << 20};
  facts.units = units;
  const cpu::ProgramPlan plan = cpu::PlanProgram(program, facts, workers, splits_batch);
  if (workers > 1) ++(splits_batch ? by_rows : by_units);
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
void TestPacked(const cpu::Isa& isa, const Program& program, const Arrays& plain, unsigned seed) {
  Arrays arrays = Packed(isa, program, plain);
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
    Arrays arrays = MakeArrays(program, seed);
    const auto expected = Interpret(program, arrays);
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
      Arrays arrays = MakeArrays(changed, seed);
      RunOn(isa, changed, 1, false, arrays);
      ++ran;
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()).starts_with("program: "), error.what());
      ++refused;
    }
  }
  CHECK(refused > 20 && ran > 5, refused, ran);
}

}  // namespace
}  // namespace jp::test

int main() {
  jp::test::TestRandomPrograms();
  jp::test::TestWrongPrograms();
  return jp::test::Finish("programs");
}
