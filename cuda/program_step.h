// SPDX-License-Identifier: Apache-2.0
// A program as the GPU kernels run it: a step with one product, and what is before and after it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "native/problem/problem.h"
#include "native/programs/program.h"

namespace jp::cuda {

// H features of a buffer, from `part` times H on.
struct BufferPart {
  int64_t buffer, part;
  bool operator==(const BufferPart&) const = default;
};

// One of a message's values of a unit: what it is, and the matrix that it is multiplied with, which
// is a slice's from row `row` on.
struct MessageValue {
  BufferPart part;
  const ProgramSlice* slice;
  int64_t row;
};

struct ProgramStep {
  std::string refusal;  // why no kernel runs it; empty: one does, and the rest says how
  int64_t hidden = 0;   // H, the features that all its operations are on
  // How its product is laid out (program_pass.h): G rows of weights a unit or, backward, G values
  // of a unit in a message.
  Pass pass = Pass::kForward;
  int gates = 0;
  const ProgramLoop* before = nullptr;  // null: the message is a part of the carry
  const ProgramLoop* after = nullptr;
  // What is multiplied. Of several slices one product each is added up, and is that of all.
  std::vector<MessageValue> message;
  // What a (unit, row) pair keeps: all of the carry first, then what `after` reads of `before`.
  std::vector<BufferPart> kept;
  // Parts of the carry that `before` replaces and `after` still reads: for each the place among
  // `kept` of what it reads; their new values are kept behind all others.
  std::vector<int> replaced;

  int products() const { return static_cast<int>(message[0].slice->gates.size()); }  // of a unit
  int states() const { return static_cast<int>(kept.size() + replaced.size()); }
  BufferPart PartAt(int64_t buffer, int64_t offset) const { return {buffer, offset / hidden}; }
  // The place of what `part` holds, and where `before` puts what it stores there. -1: nowhere.
  int PlaceOf(const BufferPart& part) const;
  int PlaceBefore(const BufferPart& part) const;
};

// `program` must live as long as what is returned.
ProgramStep StepOf(const Program& program);

// The problem that a planner is asked about in place of the program: that of a cell whose product
// is laid out the same.
Problem ProblemOf(const Program& program, const ProgramStep& step);

}  // namespace jp::cuda
