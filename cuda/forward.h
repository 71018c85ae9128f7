// SPDX-License-Identifier: Apache-2.0
// The forward kernel: one launch runs the whole sequence.
//
// A step: every warp multiplies its weights with its part of the message of the step before, h; the
// warps of a unit block add up; the lanes that look after a (unit, row) pair work out the cell and
// send the new h.
#pragma once

#include "cuda/pass.h"

namespace jp::cuda {

template <class Cell, class Dtype, int kWidth>
constexpr KernelTraits kForwardTraits =
    TraitsOf(Pass::kForward, Cell::kGates, Cell::kStates, Dtype::kPrecision, kWidth);

template <class Cell, class Dtype, template <class, class> class BlockExchange, int kWidth>
class ForwardPass : PassBase<Dtype, kForwardTraits<Cell, Dtype, kWidth>, Forward, BlockExchange> {
  using Base = PassBase<Dtype, kForwardTraits<Cell, Dtype, kWidth>, Forward, BlockExchange>;
  using Base::args_, Base::at_, Base::ends_, Base::exchange_, Base::gemm_;
  using typename Base::Bits;
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  static constexpr int kResiduals = Cell::kResiduals > 0 ? Cell::kResiduals : 1;

 public:
  JP_DEVICE explicit ForwardPass(const LaunchArgs<Forward>& args) : Base(args) {}

  JP_DEVICE void Run() {
    const auto& a = args_.arrays;
    ends_.Find(at_);
    exchange_.Start([this](int b) { return FirstRow(b); });
    if (this->HasUnits()) {
      gemm_.LoadWeights([this](int gate, int unit, int k) { return Weight(gate, unit, k); });
      this->ForEachOwnPair([&](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        const bool resets = p.exists && ResetsAtStart(p.b);
        for (int s = 0; s < kStates; ++s) {
          this->Kept(tile, slot, s) =
              this->LoadState(resets ? a.reset_state[s] : a.initial_state[s], p);
        }
      });
      for (int step = 0; step < args_.rows.steps; ++step) {
        for (int tile = 0; tile < at_.tiles; ++tile) Step(step, tile);
      }
      this->ForEachOwnPair([&](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        for (int s = 0; s < kStates; ++s) {
          this->StoreState(a.final_state[s], p, this->Kept(tile, slot, s));
        }
      });
    }
    exchange_.Finish();
  }

 private:
  // What a pair's step reads from memory: for a warp's first pair before the product, so that the
  // trip there and the wait for the others overlap.
  struct Inputs {
    bool runs;         // exists, and is not past its row's length
    bool resets_next;  // the step after starts from the reset state
    Bits gates[kGates];
  };

  JP_DEVICE bool ResetsAtStart(int b) const {
    return this->rows().IsReset(b, this->rows().Time(0));
  }

  // The row of h that the first step reads in a cluster; null: zeros.
  JP_DEVICE const Bits* FirstRow(int b) const {
    const void* states =
        ResetsAtStart(b) ? args_.arrays.reset_state[0] : args_.arrays.initial_state[0];
    return states != nullptr ? this->StateRow(states, b) : nullptr;
  }

  JP_DEVICE Bits Weight(int gate, int in_block, int k) const {
    const int unit = this->FirstUnit(0) + in_block, hidden = args_.hidden;
    if (unit >= hidden || k >= hidden) return 0;
    const int64_t row = (int64_t{at_.group} * hidden + k) * kGates + gate;
    return static_cast<const Bits*>(args_.arrays.recurrent_kernel[0])[row * hidden + unit];
  }

  JP_DEVICE void Step(int step, int tile) {
    const int time = this->rows().Time(step);
    Inputs inputs{};
    if (this->HasSlot()) inputs = LoadInputs(time, tile, this->FirstSlot());

    if (ends_.HasProduct(step, tile)) {
      auto reader = exchange_.Reader(step, tile, this->RowOf(tile, at_.row), time);
      gemm_.Multiply(reader, this->RowsOf(tile));
    }

    this->ForEachOwnSlot([&](int slot) {
      if (slot != this->FirstSlot()) inputs = LoadInputs(time, tile, slot);
      Update(step, time, tile, slot, inputs);
    });
    if (this->HasSlot()) exchange_.Sent(tile);
  }

  JP_DEVICE Inputs LoadInputs(int time, int tile, int slot) const {
    const Rows<int> rows = this->rows();
    const Pair p = this->PairOf(tile, slot);
    const int ahead = rows.After(rows.After(0));
    Inputs in;
    in.runs = p.exists && rows.Runs(p.b, time);
    in.resets_next = p.exists && rows.IsReset(p.b, rows.After(time));
    this->Load(args_.arrays.input_gates, time, ahead, p, in.runs, in.gates);
    this->PrefetchReset(p, time + ahead);
    return in;
  }

  JP_DEVICE void Update(int step, int time, int tile, int slot, const Inputs& in) {
    const Pair p = this->PairOf(tile, slot);
    float input_gates[kGates], recurrent_gates[kGates], state[kStates], residuals[kResiduals] = {};
    float output[1] = {0.0f};
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) state[s] = this->Kept(tile, slot, s);
    if (in.runs) {  // then its tile has a product
      this->ToFloats(in.gates, input_gates);
      JP_UNROLL
      for (int g = 0; g < kGates; ++g) recurrent_gates[g] = gemm_.Result(slot, g) + Bias(g, p);
      Cell::template Forward<typename Dtype::Math>(input_gates, recurrent_gates, state, residuals);
      output[0] = state[0] = Dtype::ToFloat(Dtype::FromFloat(state[0]));
    }
    if (in.resets_next) {
      JP_UNROLL
      for (int s = 0; s < kStates; ++s) {
        state[s] = this->LoadState(args_.arrays.reset_state[s], p);
      }
    }
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) this->Kept(tile, slot, s) = state[s];
    constexpr bool kSendsState = BlockExchange<Dtype, Forward>::kCarriesStates;
    exchange_.Send(step, tile, time, p.b, this->RowInTile(slot), 0, this->FirstUnit(slot),
                   Dtype::FromFloat(kSendsState ? state[0] : output[0]));
    if (exchange_.StoresResults()) this->Store(args_.arrays.outputs, time, p, output);
    if constexpr (Cell::kResiduals > 0) {
      if (args_.arrays.residuals != nullptr) {
        this->Store(args_.arrays.residuals, time, p, residuals);
      }
    }
  }

  JP_DEVICE float Bias(int gate, const Pair& p) const {
    if constexpr (!Cell::kResetAfter) return 0.0f;
    const Bits* bias = static_cast<const Bits*>(args_.arrays.recurrent_bias[0]);
    if (!p.exists || bias == nullptr) return 0.0f;
    const int column = (at_.group * kGates + gate) * args_.hidden + p.unit;
    return Dtype::ToFloat(bias[column]);
  }
};

template <class Cell, class Dtype, template <class, class> class BlockExchange, int kWidth = 1>
JP_KERNEL(kMostWarps* kLanes)
ForwardKernel(JP_CONSTANT LaunchArgs<Forward> args) {
  if constexpr (arch::kHasClusters || !BlockExchange<Dtype, Forward>::kNeedsClusters) {
    ForwardPass<Cell, Dtype, BlockExchange, kWidth>(args).Run();
  }
}

}  // namespace jp::cuda
