// SPDX-License-Identifier: Apache-2.0
// Random programs, encoded as program.py would encode them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <random>
#include <utility>
#include <vector>

#include "native/programs/program.h"

namespace jp::test {

inline constexpr int64_t kOfRows = 1 << 16, kOfLiterals = 2 << 16;

class Drawn {
 public:
  explicit Drawn(unsigned seed) : random_(seed) {}

  int64_t Any(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  bool Maybe() { return Any(0, 1) == 1; }

  Program Draw() {
    // Few steps of few rows read weights where they lie; after more, rounded results differ too
    // much.
    steps = Any(1, 5), groups = Any(1, 2), rows = Maybe() ? Any(1, 5) : Any(11, 24);
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
      using enum Operation;
      const Operation ops[] = {kAdd,      kSub, kMul,    kMax,    kMin,    kTanh,
                               kLogistic, kNeg, kSelect, kMulAdd, kMulSub, kSubMul};
      const Operation op = ops[Any(0, std::ssize(ops) - 1)];
      const auto any = [&] { return Any(0, 9) == 0 ? kOfLiterals + Any(0, 1) : Pick(values); };
      Ints read{any()};
      const int64_t arity = TraitsOf(op).reads;
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

}  // namespace jp::test
