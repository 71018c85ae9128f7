// SPDX-License-Identifier: Apache-2.0
// Arrays of programs, and a plain interpreter of them in double.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "native/problem/packed.h"
#include "native/programs/program.h"
#include "tests/native/arrays.h"

namespace jp::test {

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

inline Values MakeValues(const ProgramArray& array, int64_t count) {
  Values values{array.type, {}};
  values.bytes.resize(count * values.Width());
  return values;
}

inline int64_t SizeOf(const Program& p, const ProgramArray& array, int64_t steps) {
  const int64_t k = array.is_packed ? array.features / array.columns : 0;
  const int64_t values =
      array.is_packed ? PackedMatrixValues(k, array.columns, p.packed_lanes) : array.features;
  return steps * (array.has_groups ? p.groups : 1) * (array.has_rows ? p.rows : 1) * values;
}

// Row b of group g at step t.
inline int64_t PlaceOf(const Program& p, const ProgramArray& array, int64_t t, int64_t g,
                       int64_t b) {
  int64_t at = t;
  if (array.has_groups) at = at * p.groups + g;
  if (array.has_rows) at = at * p.rows + b;
  return at * array.features;
}

struct ProgramArrays {
  std::vector<Values> operands, results;
};

inline ProgramArrays MakeArrays(const Program& p, unsigned seed) {
  ProgramArrays arrays;
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

// A program's results, one row and one unit after the other; those that no step stores stay NaN.
class Interpreter {
 public:
  Interpreter(const Program& program, const ProgramArrays& arrays) : p_(program), arrays_(arrays) {
    for (const Values& r : arrays.results) {
      results_.emplace_back(r.bytes.size() / r.Width(), std::nan(""));
    }
  }

  std::vector<std::vector<double>> Run() {
    for (group_ = 0; group_ < p_.groups; ++group_) {
      for (row_ = 0; row_ < p_.rows; ++row_) RunRow();
    }
    return results_;
  }

 private:
  void RunRow() {
    now_.clear();
    for (const ProgramBuffer& buffer : p_.buffers) now_.emplace_back(buffer.width, std::nan(""));
    for (int64_t i = 0; i < p_.carries; ++i) {
      const int64_t operand = p_.consts + i;
      for (size_t u = 0; u < now_[i].size(); ++u) now_[i][u] = OperandAt(operand, u);
    }
    for (int64_t step = 0; step < p_.steps; ++step) {
      time_ = p_.reverse ? p_.steps - 1 - step : step;
      next_ = now_;
      for (const auto& stage : p_.stages) {
        for (const ProgramLoop& loop : stage) RunLoop(loop);
      }
      for (int64_t i = 0; i < p_.carries; ++i) now_[i] = next_[i];
    }
    for (int64_t i = 0; i < p_.carries; ++i) {
      const int64_t at = PlaceOf(p_, p_.operands[p_.consts + i], 0, group_, row_);
      std::copy(now_[i].begin(), now_[i].end(), results_[i].begin() + at);
    }
  }

  double OperandAt(int64_t operand, int64_t feature) const {
    const int64_t time = operand < p_.consts + p_.carries ? 0 : time_;
    const int64_t row = PlaceOf(p_, p_.operands[operand], time, group_, row_);
    return arrays_.operands[operand].Get(row + feature);
  }

  void RunLoop(const ProgramLoop& loop) {
    for (int64_t unit = 0; unit < loop.width; ++unit) {
      registers_[0].assign(loop.registers, 0.0);
      registers_[1].assign(loop.row_registers, 0.0);
      for (const Instruction& i : loop.code) {
        const Register& first = i.at[0];
        const int64_t place = i.numbers[1] + (first.kind == RegisterKind::kUnits ? unit : 0);
        if (i.op == Operation::kStoreY) {
          StoreY(i.numbers[0], place, Read(first));
        } else if (i.op == Operation::kStoreBuffer) {
          const int64_t buffer = i.numbers[0];
          (p_.buffers[buffer].is_carry ? next_ : now_)[buffer][place] = Read(first);
        } else {
          registers_[first.kind == RegisterKind::kRows][first.index] = Value(loop, i, unit, place);
        }
      }
    }
  }

  double Read(const Register& r) const {
    if (r.kind == RegisterKind::kLiteral) return p_.literals[r.index];
    return registers_[r.kind == RegisterKind::kRows][r.index];
  }

  void StoreY(int64_t n, int64_t place, double value) {
    ProgramArray y = p_.ys[n];
    y.has_groups = y.has_rows = true;
    results_[p_.carries + n][PlaceOf(p_, y, time_, group_, row_) + place] = value;
  }

  double Value(const ProgramLoop& loop, const Instruction& i, int64_t unit, int64_t place) const {
    const int64_t n = i.numbers[0];
    const auto read = [&](int which) { return Read(i.at[which]); };
    const double a = i.reads > 0 ? read(1) : 0, b = i.reads > 1 ? read(2) : 0;
    const double c = i.reads > 2 ? read(3) : 0;
    switch (i.op) {
      case Operation::kLoadOperand: return OperandAt(n, place);
      case Operation::kLoadBuffer: return now_[n][place];
      case Operation::kLoadProduct: return Product(loop, loop.slices[n], i.numbers[1], unit);
      case Operation::kReduce: return Reduced(i);
      case Operation::kSplat: return a;
      case Operation::kSelect: return a != 0 ? c : b;
      case Operation::kMulAdd: return a * b + c;
      case Operation::kMulSub: return a * b - c;
      case Operation::kSubMul: return c - a * b;
      case Operation::kAdd: return a + b;
      case Operation::kSub: return a - b;
      case Operation::kMul: return a * b;
      case Operation::kMax: return std::max(a, b);
      case Operation::kMin: return std::min(a, b);
      case Operation::kTanh: return std::tanh(a);
      case Operation::kLogistic: return 1 / (1 + std::exp(-a));
      case Operation::kNeg: return -a;
      default: throw std::logic_error("not drawn");
    }
  }

  double Product(const ProgramLoop& loop, const ProgramSlice& slice, int64_t n,
                 int64_t unit) const {
    const GateMatrix& gate = slice.gates[n];
    const int64_t units = loop.width / slice.heads, head = unit / units, column = unit % units;
    const int64_t from = gate.base + head * gate.head + column * gate.column;
    double sum = 0;
    for (int64_t k = 0; k < slice.k; ++k) {
      sum += now_[slice.buffer][slice.offset + head * slice.k + k] *
             OperandAt(gate.operand, from + k * gate.row);
    }
    return sum;
  }

  double Reduced(const Instruction& i) const {
    const double* const from = now_[i.numbers[0]].data() + i.numbers[1];
    double found = from[0];
    for (int64_t k = 1; k < i.numbers[2]; ++k) {
      switch (static_cast<Reduction>(i.numbers[3])) {
        case Reduction::kSum: found += from[k]; break;
        case Reduction::kMax: found = std::max(found, from[k]); break;
        case Reduction::kMin: found = std::min(found, from[k]); break;
      }
    }
    return found;
  }

  const Program& p_;
  const ProgramArrays& arrays_;
  std::vector<std::vector<double>> results_;
  int64_t group_ = 0, row_ = 0, time_ = 0;
  std::vector<std::vector<double>> now_, next_;  // the buffers, and the carry after the step
  std::vector<double> registers_[2];             // of a unit, of a row
};

}  // namespace jp::test
