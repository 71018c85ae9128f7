// The forward kernel: one launch runs the whole sequence.
//
// A step: every warp multiplies its weights with its part of the message of the step before, h; the
// warps of a unit block add up; the lanes that look after a (unit, row) pair work out the cell and
// send the new h.
#pragma once

#include "cuda/pass.h"

namespace jp::cuda {

template <class Cell, class Number>
constexpr KernelTraits kForwardTraits =
    ForwardTraits(Cell::kGates, Cell::kStates, Number::kNumber);

template <class Cell, class Number, template <class, class> class Team>
class Forward : Pass<Number, kForwardTraits<Cell, Number>, cpu::Forward, Team> {
  using Base = Pass<Number, kForwardTraits<Cell, Number>, cpu::Forward, Team>;
  using Base::args_, Base::shape_, Base::at_, Base::team_, Base::product_, Base::kSlots;
  using typename Base::Bits;
  static constexpr int kGates = Cell::kGates;

 public:
  JP_DEVICE explicit Forward(const LaunchArgs<cpu::Forward>& args) : Base(args) {}

  JP_DEVICE void Run() {
    team_.Start([this](int b) { return this->StateRow(args_.arrays.initial[0], b); });
    if (this->HasUnits()) {
      product_.LoadWeights([this](int gate, int unit, int k) { return Weight(gate, unit, k); });
      this->ForEachOwnPair([this](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        for (int s = 0; s < Cell::kStates; ++s) {
          this->Kept(tile, slot, s) = this->LoadState(args_.arrays.initial[s], p);
        }
      });
      for (int step = 0; step < shape_.steps; ++step) {
        for (int tile = 0; tile < at_.tiles; ++tile) Step(step, tile);
      }
      this->ForEachOwnPair([this](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        for (int s = 0; s < Cell::kStates; ++s) {
          this->StoreState(args_.arrays.final[s], p, this->Kept(tile, slot, s));
        }
      });
    }
    team_.Finish();
  }

 private:
  // What a pair's step reads from memory: for a warp's first pair before the product, so that the
  // trip there and the wait for the others overlap.
  struct Inputs {
    bool runs;  // exists, and is not past its row's length
    Bits x[kGates];
  };

  JP_DEVICE Bits Weight(int gate, int in_block, int k) const {
    const int unit = this->FirstUnit(0) + in_block, hidden = shape_.hidden;
    if (unit >= hidden || k >= hidden) return 0;
    const int64_t row = (int64_t{at_.group} * hidden + k) * kGates + gate;
    return static_cast<const Bits*>(args_.arrays.recurrent_kernel)[row * hidden + unit];
  }

  JP_DEVICE void Step(int step, int tile) {
    const int time = shape_.reverse ? shape_.steps - 1 - step : step;
    Inputs inputs{};
    if (at_.warp_k < kSlots) inputs = LoadInputs(time, tile, at_.warp_k);

    const int b = this->RowOf(tile, at_.row);
    const bool begins = time == (shape_.reverse ? this->Length(b) - 1 : 0);
    auto reader = team_.Reader(step, tile, b, shape_.reverse ? time + 1 : time - 1, begins);
    product_.Multiply(reader, this->RowsOf(tile));

    this->ForEachOwnSlot([&](int slot) {
      if (slot != at_.warp_k) inputs = LoadInputs(time, tile, slot);
      Update(step, time, tile, slot, inputs);
    });
    if (at_.warp_k < kSlots) team_.Sent(tile);
  }

  JP_DEVICE Inputs LoadInputs(int time, int tile, int slot) const {
    const Pair p = this->PairOf(tile, slot);
    Inputs in;
    in.runs = p.exists && time < this->Length(p.b);
    const int ahead = shape_.reverse ? -2 : 2;
    this->Load(args_.arrays.gates_x, time, ahead, p, in.runs, in.x);
    return in;
  }

  JP_DEVICE void Update(int step, int time, int tile, int slot, const Inputs& in) {
    const Pair p = this->PairOf(tile, slot);
    float x[kGates], product[kGates], state[Cell::kStates], output[1] = {0.0f};
    float saved[Cell::kSaved > 0 ? Cell::kSaved : 1] = {};
    this->ToFloats(in.x, x);
    JP_UNROLL
    for (int g = 0; g < kGates; ++g) product[g] = product_.Product(slot, g) + Bias(g, p);
    JP_UNROLL
    for (int s = 0; s < Cell::kStates; ++s) state[s] = this->Kept(tile, slot, s);
    if (in.runs) {
      Cell::template Forward<typename Number::Math>(x, product, state, saved);
      output[0] = state[0] = Number::ToFloat(Number::FromFloat(state[0]));
      JP_UNROLL
      for (int s = 0; s < Cell::kStates; ++s) this->Kept(tile, slot, s) = state[s];
    }
    team_.Send(
        step, tile, time, p.b, this->RowInTile(slot), 0, this->FirstUnit(slot),
        Number::FromFloat(Team<Number, cpu::Forward>::kCarriesStates ? state[0] : output[0]));
    if (team_.StoresResults()) this->Store(args_.arrays.outputs, time, p, output);
    if constexpr (Cell::kSaved > 0) {
      if (args_.arrays.saved != nullptr) this->Store(args_.arrays.saved, time, p, saved);
    }
  }

  JP_DEVICE float Bias(int gate, const Pair& p) const {
    if constexpr (!Cell::kSeparateProduct) return 0.0f;
    const int column = (at_.group * kGates + gate) * shape_.hidden + p.unit;
    const Bits* bias = static_cast<const Bits*>(args_.arrays.recurrent_bias);
    return p.exists ? Number::ToFloat(bias[column]) : 0.0f;
  }
};

template <class Cell, class Number, template <class, class> class Team>
JP_KERNEL(kMostWarps* kLanes)
ForwardKernel(JP_CONSTANT LaunchArgs<cpu::Forward> args) {
  if constexpr (arch::kHasClusters || !Team<Number, cpu::Forward>::kNeedsClusters) {
    Forward<Cell, Number, Team>(args).Run();
  }
}

}  // namespace jp::cuda
