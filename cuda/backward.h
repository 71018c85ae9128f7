// The backward kernel: one launch runs the whole sequence, last step first.
//
// A step: every warp multiplies its weights with its part of the message of the step after, the
// gradient of that step's product; the lanes that look after a (unit, row) pair add it to the
// gradient that the cell passes on by itself, work the cell's gradients out, and send theirs. After
// the last step comes one product more, for the initial state.
#pragma once

#include "cuda/pass.h"

namespace jp::cuda {

template <class Cell, class Number>
constexpr KernelTraits kBackwardTraits =
    BackwardTraits(Cell::kGates, Cell::kStates, Number::kNumber);

template <class Cell, class Number, template <class, class> class Team>
class Backward : Pass<Number, kBackwardTraits<Cell, Number>, cpu::Backward, Team> {
  using Base = Pass<Number, kBackwardTraits<Cell, Number>, cpu::Backward, Team>;
  using Base::args_, Base::shape_, Base::at_, Base::team_, Base::product_, Base::kSlots;
  using typename Base::Bits;
  static constexpr int kGates = Cell::kGates, kSaved = Cell::kSaved > 0 ? Cell::kSaved : 1;

 public:
  JP_DEVICE explicit Backward(const LaunchArgs<cpu::Backward>& args) : Base(args) {}

  JP_DEVICE void Run() {
    // The first step has no product: no message is there to be read.
    team_.Start([](int) { return static_cast<const Bits*>(nullptr); });
    if (this->HasUnits()) {
      product_.LoadWeights([this](int, int unit, int k) { return Weight(unit, k); });
      this->ForEachOwnPair([this](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        for (int s = 0; s < Cell::kStates; ++s) {
          this->Kept(tile, slot, s) = this->LoadState(args_.arrays.d_final[s], p);
        }
      });
      for (int step = 0; step <= shape_.steps; ++step) {
        for (int tile = 0; tile < at_.tiles; ++tile) Step(step, tile);
      }
    }
    team_.Finish();
  }

 private:
  // What a pair's step reads from memory: for a warp's first pair before the product.
  struct Inputs {
    bool runs;
    Bits d_output[1], h[1], saved[kSaved], previous;  // the one earlier state that the cell reads
  };

  // Of unit `in_block` as a row of the kernel, element k of a message: gate by gate, each padded.
  JP_DEVICE Bits Weight(int in_block, int k) const {
    const int gate = k / args_.pass.segment, column = k % args_.pass.segment;
    const int unit = this->FirstUnit(0) + in_block, hidden = shape_.hidden;
    if (unit >= hidden || gate >= kGates || column >= hidden) return 0;
    const int64_t row = (int64_t{at_.group} * hidden + unit) * kGates + gate;
    return static_cast<const Bits*>(args_.arrays.recurrent_kernel)[row * hidden + column];
  }

  JP_DEVICE void Step(int step, int tile) {
    const int time = shape_.reverse ? step : shape_.steps - 1 - step;
    const bool is_last = step == shape_.steps;
    Inputs inputs{};
    if (at_.warp_k < kSlots && !is_last) inputs = LoadInputs(time, tile, at_.warp_k);

    if (step > 0) {
      auto reader = team_.Reader(step, tile, this->RowOf(tile, at_.row),
                                 shape_.reverse ? time - 1 : time + 1, false);
      product_.Multiply(reader, this->RowsOf(tile));
    }
    this->ForEachOwnSlot([&](int slot) {
      const float product = step > 0 ? product_.Product(slot, 0) : 0.0f;
      if (is_last) return StoreInitial(tile, slot, product);
      if (slot != at_.warp_k) inputs = LoadInputs(time, tile, slot);
      Update(step, time, tile, slot, inputs, product);
    });
    if (!is_last && at_.warp_k < kSlots) team_.Sent(tile);
  }

  JP_DEVICE Inputs LoadInputs(int time, int tile, int slot) const {
    const auto& a = args_.arrays;
    const Pair p = this->PairOf(tile, slot);
    Inputs in{};
    in.runs = p.exists && time < this->Length(p.b);
    const int ahead = shape_.reverse ? 2 : -2;
    this->Load(a.d_outputs, time, ahead, p, in.runs, in.d_output);
    if constexpr (Cell::kReadsH) this->Load(a.outputs, time, ahead, p, in.runs, in.h);
    if constexpr (Cell::kSaved > 0) this->Load(a.saved, time, ahead, p, in.runs, in.saved);
    if (!in.runs) return in;
    if constexpr (Cell::kReadsPreviousH)
      in.previous = *Previous(a.initial[0], a.outputs, 1, time, p);
    // c, the last of the saved values.
    if constexpr (Cell::kStates > 1) {
      in.previous = *Previous(a.initial[1], a.saved, Cell::kSaved, time, p);
    }
    return in;
  }

  // A pair's state before `time`: the last of the `count` values of the time before, or initial.
  JP_DEVICE const Bits* Previous(const void* initial, const void* sequence, int count, int time,
                                 const Pair& p) const {
    if (time == (shape_.reverse ? this->Length(p.b) - 1 : 0)) {
      return this->StateRow(initial, p.b) + p.unit;
    }
    const int before = shape_.reverse ? time + 1 : time - 1;
    return static_cast<const Bits*>(sequence) +
           this->layout_.sequence(p.b, before, count * shape_.hidden) +
           (count - 1) * shape_.hidden + p.unit;
  }

  JP_DEVICE void Update(int step, int time, int tile, int slot, const Inputs& in, float product) {
    const Pair p = this->PairOf(tile, slot);
    float d_state[Cell::kStates], dx[kGates] = {}, d_product[kGates] = {}, saved[kSaved];
    JP_UNROLL
    for (int s = 0; s < Cell::kStates; ++s) d_state[s] = this->Kept(tile, slot, s);
    d_state[0] += product;
    if (in.runs) {
      d_state[0] += Number::ToFloat(in.d_output[0]);
      this->ToFloats(in.saved, saved);
      float previous[Cell::kStates] = {};
      previous[Cell::kStates - 1] = Number::ToFloat(in.previous);
      Cell::template Backward<typename Number::Math>(saved, previous, Number::ToFloat(in.h[0]),
                                                     d_state, dx, d_product);
    }
    JP_UNROLL
    for (int s = 0; s < Cell::kStates; ++s) this->Kept(tile, slot, s) = d_state[s];
    const float (&sent)[kGates] = Cell::kSeparateProduct ? d_product : dx;
    JP_UNROLL
    for (int g = 0; g < kGates; ++g) {
      team_.Send(step, tile, time, p.b, this->RowInTile(slot), g, this->FirstUnit(slot),
                 Number::FromFloat(sent[g]));
    }
    const bool stores = team_.StoresResults();
    if (Cell::kSeparateProduct || stores) this->Store(args_.arrays.d_gates_x, time, p, dx);
    if (Cell::kSeparateProduct && stores) {
      this->Store(args_.arrays.d_product, time, p, d_product);
    }
  }

  JP_DEVICE void StoreInitial(int tile, int slot, float product) const {
    const Pair p = this->PairOf(tile, slot);
    for (int s = 0; s < Cell::kStates; ++s) {
      this->StoreState(args_.arrays.d_initial[s], p,
                       this->Kept(tile, slot, s) + (s == 0 ? product : 0.0f));
    }
  }
};

template <class Cell, class Number, template <class, class> class Team>
JP_KERNEL(kMostWarps* kLanes)
BackwardKernel(JP_CONSTANT LaunchArgs<cpu::Backward> args) {
  if constexpr (arch::kHasClusters || !Team<Number, cpu::Backward>::kNeedsClusters) {
    Backward<Cell, Number, Team>(args).Run();
  }
}

}  // namespace jp::cuda
