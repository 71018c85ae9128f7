// SPDX-License-Identifier: Apache-2.0
// The kernel of a program with one product a step: one launch runs the whole scan.
//
// A step falls in two at its product: what is before makes the message, what is after reads the
// product. The kernel goes in rounds: the part after the product of one step, then the part before
// it of the next; a round before the first step and one behind the last have one part each. So a
// message is read by the round behind its own, as in the backward pass, whose exchange this is: it
// sees rows that run against the program's direction.
//
// program_source.h writes the step out as a struct:
//   kPass                  how its product is laid out: forward, G rows of weights a unit and a
//                          message of one value a unit; backward, one row and G values
//   kGates, kStates        G; floats that a pair keeps from step to step
//   Weight                 the bits of one weight: of a value of the message, gate, k and unit
//   Begin, End             load and store the carry
//   LoadBefore, LoadAfter  what the parts read from memory, asked for before the wait
//   Before, After          the parts
#pragma once

#include "cuda/pass.h"
#include "cuda/program_place.h"

namespace jp::cuda {

template <class Step, class Dtype, int kWidth>
constexpr KernelTraits kProgramTraits =
    TraitsOf(Step::kPass, Step::kGates, Step::kStates, Dtype::kPrecision, kWidth);

template <class Step, class Dtype, template <class, class> class BlockExchange, int kWidth>
class ProgramPass
    : PassBase<Dtype, kProgramTraits<Step, Dtype, kWidth>, ProgramArrays, BlockExchange> {
  using Base = PassBase<Dtype, kProgramTraits<Step, Dtype, kWidth>, ProgramArrays, BlockExchange>;
  using Base::args_, Base::at_, Base::ends_, Base::exchange_, Base::gemm_;
  using typename Base::Bits;
  static constexpr KernelTraits kTraits = kProgramTraits<Step, Dtype, kWidth>;
  static constexpr int kStates = Step::kStates;

 public:
  JP_DEVICE explicit ProgramPass(const LaunchArgs<ProgramArrays>& args) : Base(args) {}

  JP_DEVICE void Run() {
    ends_.Find(at_);
    exchange_.Start([](int) { return static_cast<const Bits*>(nullptr); });
    if (this->HasUnits()) {
      gemm_.LoadWeights([this](int gate, int unit, int k) { return Weight(gate, unit, k); });
      this->ForEachOwnPair([this](int tile, int slot) {
        float state[kStates] = {};
        Step::Begin(PlaceOf(tile, slot, 0), state);
        Keep(tile, slot, state);
      });
      for (int round = 0; round <= args_.rows.steps; ++round) {
        for (int tile = 0; tile < at_.tiles; ++tile) Round(round, tile);
      }
      this->ForEachOwnPair([this](int tile, int slot) {
        float state[kStates];
        Recall(tile, slot, state);
        Step::End(PlaceOf(tile, slot, 0), state);
      });
    }
    exchange_.Finish();
  }

 private:
  struct Inputs {
    typename Step::InputsAfter after;
    typename Step::InputsBefore before;
  };

  // The message has a segment for each of its values a unit, each padded.
  JP_DEVICE Bits Weight(int gate, int in_block, int k) const {
    const int segment = args_.geometry.segment, hidden = args_.hidden;
    const int value = kTraits.segments == 1 ? 0 : k / segment, column = k - value * segment;
    const int unit = this->FirstUnit(0) + in_block;
    if (unit >= hidden || value >= kTraits.segments || column >= hidden) return 0;
    return Step::Weight(args_.arrays, at_.group, value, gate, column, unit);
  }

  // The time of a round's second part; that of its first is the one before, in the program's order.
  JP_DEVICE int TimeOf(int round) const { return this->rows().Time(args_.rows.steps - 1 - round); }

  JP_DEVICE ProgramPlace PlaceOf(int tile, int slot, int time) const {
    const Pair p = this->PairOf(tile, slot);
    const Rows<int> rows = this->rows();
    const int ahead = rows.Before(rows.Before(0));
    const bool goes_on = time + ahead >= 0 && time + ahead < rows.steps;
    return {args_, at_.group, p.b, p.unit, time, p.exists, goes_on ? ahead : 0, at_.row};
  }

  JP_DEVICE Inputs Load(int round, int tile, int slot) const {
    Inputs in{};
    const int time = TimeOf(round);
    if (round > 0) in.after = Step::LoadAfter(PlaceOf(tile, slot, this->rows().After(time)));
    if (round < args_.rows.steps) in.before = Step::LoadBefore(PlaceOf(tile, slot, time));
    return in;
  }

  JP_DEVICE void Round(int round, int tile) {
    Inputs inputs{};
    if (this->HasSlot()) inputs = Load(round, tile, this->FirstSlot());
    if (ends_.HasProduct(round, tile)) {
      auto reader = exchange_.Reader(round, tile, this->RowOf(tile, at_.row), TimeOf(round));
      gemm_.Multiply(reader, this->RowsOf(tile));
    }
    this->ForEachOwnSlot([&](int slot) {
      if (slot != this->FirstSlot()) inputs = Load(round, tile, slot);
      Update(round, tile, slot, inputs);
    });
    if (round < args_.rows.steps && this->HasSlot()) exchange_.Sent(tile);
  }

  JP_DEVICE void Update(int round, int tile, int slot, const Inputs& in) {
    const int time = TimeOf(round);
    float state[kStates];
    Recall(tile, slot, state);
    if (round > 0) {
      float product[kTraits.gates];
      JP_UNROLL
      for (int g = 0; g < kTraits.gates; ++g) product[g] = gemm_.Result(slot, g);
      Step::After(PlaceOf(tile, slot, this->rows().After(time)), in.after, product, state);
    }
    if (round < args_.rows.steps) {
      const ProgramPlace place = PlaceOf(tile, slot, time);
      float message[kTraits.segments];
      Step::Before(place, in.before, message, state);
      JP_UNROLL
      for (int s = 0; s < kTraits.segments; ++s) {
        // Past the last unit weights are zero, and a NaN would not be.
        exchange_.Send(round, tile, time, place.b, this->RowInTile(slot), s, this->FirstUnit(slot),
                       Dtype::FromFloat(place.exists ? message[s] : 0.0f));
      }
    }
    Keep(tile, slot, state);
  }

  JP_DEVICE void Recall(int tile, int slot, float (&state)[kStates]) const {
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) state[s] = this->Kept(tile, slot, s);
  }
  JP_DEVICE void Keep(int tile, int slot, const float (&state)[kStates]) const {
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) this->Kept(tile, slot, s) = state[s];
  }
};

}  // namespace jp::cuda
