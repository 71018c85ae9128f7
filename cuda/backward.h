// SPDX-License-Identifier: Apache-2.0
// The backward kernel: one launch runs the whole sequence, last step first.
//
// A step: every warp multiplies its weights with its part of the message of the step after, the
// gradient of that step's recurrent gates; blocks that share K exchange their sums; the lanes that
// look after a (unit, row) pair add it to the gradient that the cell passes on by itself, work the
// cell's gradients out, and send theirs.
// After the last step comes one product more, for the initial state.
#pragma once

#include "cuda/pass.h"

namespace jp::cuda {

template <class Cell, class Dtype, int kWidth>
constexpr KernelTraits kBackwardTraits =
    TraitsOf(Pass::kBackward, Cell::kGates, Cell::kStates, Dtype::kPrecision, kWidth);

template <class Cell, class Dtype, template <class, class> class BlockExchange, int kWidth>
class BackwardPass
    : PassBase<Dtype, kBackwardTraits<Cell, Dtype, kWidth>, Backward, BlockExchange> {
  using Base = PassBase<Dtype, kBackwardTraits<Cell, Dtype, kWidth>, Backward, BlockExchange>;
  using Base::args_, Base::at_, Base::ends_, Base::exchange_, Base::gemm_;
  using typename Base::Bits;
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  static constexpr int kResiduals = Cell::kResiduals > 0 ? Cell::kResiduals : 1;
  static constexpr KernelTraits kTraits = kBackwardTraits<Cell, Dtype, kWidth>;
  static constexpr bool kMayCut = arch::kHasClusters && kWidth > 1;

 public:
  JP_DEVICE explicit BackwardPass(const LaunchArgs<Backward>& args)
      : Base(args), sums_(args, at_, ends_, kTraits.slots()) {}

  JP_DEVICE void Run() {
    ends_.Find(at_);
    // The first step has no product: no message is there to be read.
    exchange_.Start([](int) { return static_cast<const Bits*>(nullptr); });
    if constexpr (kMayCut) {
      if (sums_.Exist()) sums_.Start();
    }
    if (this->HasUnits()) {
      gemm_.LoadWeights([this](int, int unit, int k) { return Weight(unit, k); });
      this->ForEachOwnPair([this](int tile, int slot) {
        const Pair p = this->PairOf(tile, slot);
        for (int s = 0; s < kStates; ++s) {
          this->Kept(tile, slot, s) = this->LoadState(args_.arrays.d_final_state[s], p);
          if (SumsResets()) this->ResetSum(tile, slot, s) = 0.0f;
        }
      });
      for (int step = 0; step <= args_.rows.steps; ++step) {
        for (int tile = 0; tile < at_.tiles; ++tile) Step(step, tile);
      }
    }
    exchange_.Finish();
  }

 private:
  // What a pair's step reads from memory: for a warp's first pair before the product.
  struct Inputs {
    bool runs;
    bool reset_after;  // the step after, in time, started from the reset state
    Bits d_output[1], h[1], residuals[kResiduals], previous[kStates];
  };

  JP_DEVICE bool SumsResets() const { return args_.arrays.d_reset_state[0] != nullptr; }

  // Of unit `in_block` as a row of the kernel, element k of a message: gate by gate, each padded.
  JP_DEVICE Bits Weight(int in_block, int k) const {
    const int segment = args_.geometry.segment, gate = k / segment, column = k % segment;
    const int unit = this->FirstUnit(0) + in_block, hidden = args_.hidden;
    if (unit >= hidden || gate >= kGates || column >= hidden) return 0;
    const int64_t row = (int64_t{at_.group} * hidden + unit) * kGates + gate;
    return static_cast<const Bits*>(args_.arrays.recurrent_kernel[0])[row * hidden + column];
  }

  JP_DEVICE void Step(int step, int tile) {
    const int time = this->rows().Time(args_.rows.steps - 1 - step);  // the last: before all others
    const bool is_last = step == args_.rows.steps;
    Inputs inputs{};
    if (this->HasSlot() && !is_last) inputs = LoadInputs(time, tile, this->FirstSlot());

    const bool has_product = ends_.HasProduct(step, tile);
    if (has_product) {
      auto reader = exchange_.Reader(step, tile, this->RowOf(tile, at_.row), time);
      gemm_.Multiply(reader, this->RowsOf(tile));
      if constexpr (kMayCut) {
        if (sums_.Exist()) {
          sums_.Send(step, tile, [this](int slot) { return gemm_.Result(slot, 0); });
          if (this->HasSlot()) sums_.Await(step, tile);
        }
      }
    }
    this->ForEachOwnSlot([&](int slot) {
      const float product = has_product ? Product(step, tile, slot) : 0.0f;
      if (is_last) return StoreStates(time, tile, slot, product);
      if (slot != this->FirstSlot()) inputs = LoadInputs(time, tile, slot);
      Update(step, time, tile, slot, inputs, product);
    });
    if (!is_last && this->HasSlot()) exchange_.Sent(tile);
  }

  JP_DEVICE float Product(int step, int tile, int slot) const {
    const float own = gemm_.Result(slot, 0);
    if constexpr (kMayCut) {
      if (sums_.Exist()) return sums_.Total(step, tile, slot, own);
    }
    return own;
  }

  JP_DEVICE Inputs LoadInputs(int time, int tile, int slot) const {
    const auto& a = args_.arrays;
    const Rows<int> rows = this->rows();
    const Pair p = this->PairOf(tile, slot);
    const int ahead = rows.Before(rows.Before(0));
    Inputs in{};
    in.runs = p.exists && rows.Runs(p.b, time);
    in.reset_after = p.exists && rows.IsReset(p.b, rows.After(time));
    this->Load(a.d_outputs, time, ahead, p, in.runs, in.d_output);
    if constexpr (Cell::kReadsH) this->Load(a.outputs, time, ahead, p, in.runs, in.h);
    if constexpr (Cell::kResiduals > 0) {
      this->Load(a.residuals, time, ahead, p, in.runs, in.residuals);
    }
    this->PrefetchReset(p, time + ahead);
    if (!in.runs) return in;
    if constexpr (Cell::kReadsPreviousH) in.previous[0] = Previous<0, 1, 0>(a.outputs, time, p);
    LoadPrivate(time, p, in.previous);
    return in;
  }

  // Unrolled by hand: an array that a loop indexes stays in memory.
  template <int kState = 1>
  JP_DEVICE void LoadPrivate(int time, const Pair& p, Bits (&previous)[kStates]) const {
    if constexpr (kState < kStates) {
      previous[kState] = Previous<kState, Cell::kResiduals, ResidualOfState<Cell>(kState)>(
          args_.arrays.residuals, time, p);
      LoadPrivate<kState + 1>(time, p, previous);
    }
  }

  // A state before `time`, at which the row runs: from the step before it is value kIndex of the
  // kCount that the sequence has of a unit.
  template <int kState, int kCount, int kIndex>
  JP_DEVICE Bits Previous(const void* sequence, int time, const Pair& p) const {
    const auto& a = args_.arrays;
    const Rows<int> rows = this->rows();
    if (rows.IsReset(p.b, time)) return this->StateBits(a.reset_state[kState], p);
    if (rows.IsFirst(p.b, time)) return this->StateBits(a.initial_state[kState], p);
    return static_cast<const Bits*>(
        sequence)[this->SequenceOffset(p.b, rows.Before(time), kCount * args_.hidden) +
                  kIndex * args_.hidden + p.unit];
  }

  JP_DEVICE void Update(int step, int time, int tile, int slot, const Inputs& in, float product) {
    const Pair p = this->PairOf(tile, slot);
    float d_state[kStates], residuals[kResiduals], previous[kStates];
    float d_input_gates[kGates] = {}, d_recurrent_gates[kGates] = {};
    TakeStates(tile, slot, in.reset_after, product, d_state);
    if (in.runs) {
      d_state[0] += Dtype::ToFloat(in.d_output[0]);
      this->ToFloats(in.residuals, residuals);
      this->ToFloats(in.previous, previous);
      Cell::template Backward<typename Dtype::Math>(residuals, previous, Dtype::ToFloat(in.h[0]),
                                                    d_state, d_input_gates, d_recurrent_gates);
    }
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) this->Kept(tile, slot, s) = d_state[s];
    const float (&sent)[kGates] = Cell::kResetAfter ? d_recurrent_gates : d_input_gates;
    JP_UNROLL
    for (int g = 0; g < kGates; ++g) {
      exchange_.Send(step, tile, time, p.b, this->RowInTile(slot), g, this->FirstUnit(slot),
                     Dtype::FromFloat(sent[g]));
    }
    const bool stores = exchange_.StoresResults();
    if (Cell::kResetAfter || stores) {
      this->Store(args_.arrays.d_input_gates, time, p, d_input_gates);
    }
    if (Cell::kResetAfter && stores) {
      this->Store(args_.arrays.d_recurrent_gates, time, p, d_recurrent_gates);
    }
  }

  // The gradients of the states after this step. Where the step after started from the reset state
  // they are that one's, and nothing comes down to this step.
  JP_DEVICE void TakeStates(int tile, int slot, bool reset_after, float product,
                            float (&d_state)[kStates]) const {
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) d_state[s] = this->Kept(tile, slot, s);
    d_state[0] += product;
    if (!reset_after) return;
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) {
      if (SumsResets()) this->ResetSum(tile, slot, s) += d_state[s];
      d_state[s] = 0.0f;
    }
  }

  JP_DEVICE void StoreStates(int time, int tile, int slot, float product) const {
    const Pair p = this->PairOf(tile, slot);
    const Rows<int> rows = this->rows();
    float d_state[kStates];
    TakeStates(tile, slot, p.exists && rows.IsReset(p.b, rows.After(time)), product, d_state);
    JP_UNROLL
    for (int s = 0; s < kStates; ++s) {
      this->StoreState(args_.arrays.d_initial_state[s], p, d_state[s]);
      if (SumsResets()) {
        this->StoreState(args_.arrays.d_reset_state[s], p, this->ResetSum(tile, slot, s));
      }
    }
  }

  const ClusterSums<Backward> sums_;  // where K is cut
};

template <class Cell, class Dtype, template <class, class> class BlockExchange, int kWidth = 1>
JP_KERNEL(kMostWarps* kLanes)
BackwardKernel(JP_CONSTANT LaunchArgs<Backward> args) {
  if constexpr (arch::kHasClusters || !BlockExchange<Dtype, Backward>::kNeedsClusters) {
    BackwardPass<Cell, Dtype, BlockExchange, kWidth>(args).Run();
  }
}

}  // namespace jp::cuda
