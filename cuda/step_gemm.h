// SPDX-License-Identifier: Apache-2.0
// One step's product of the recurrent weights, which stay on the chip, with a tile of a message.
#pragma once

#include "cuda/transports.h"
#include "cuda/warp_gemm.h"

namespace jp::cuda {

// A warp's share: its unit block's rows, its part of K. The warps of a unit block add theirs up in
// shared memory, where each then finds the sums of the (unit, row) pairs that it looks after.
template <class Dtype, KernelTraits kTraits>
class StepGemm {
  using Bits = typename Dtype::Bits;
  static constexpr int kTiles = kTraits.tiles();
  static constexpr int kVectors = kTraits.chunk_vectors();
  static constexpr int kResident = kTraits.register_chunks;
  static constexpr int kAhead = kTraits.loads_in_flight;
  static_assert(kResident > 0);

 public:
  // `streamed`: this launch's scratch for weights in L2, of all blocks.
  JP_DEVICE StepGemm(const Geometry& geometry, const ThreadCoords& at, Vec16B* streamed)
      : geometry_(geometry), at_(at) {
    unsigned char* shared = arch::SharedMemory();
    const int warps = geometry.warps_m * geometry.warps_k;
    const int in_shared = geometry.shared_chunks > 0 ? geometry.shared_chunks : 1;
    partials_ = reinterpret_cast<float*>(shared) + at.lane;
    shared_ = reinterpret_cast<Vec16B*>(shared + geometry.weights) +
              at.warp * in_shared * kVectors * kLanes + at.lane;
    stage_ = reinterpret_cast<Vec16B*>(shared + geometry.stage) + at.warp * 2 * kLanes;
    const int64_t share = int64_t{arch::BlockIndex()} * warps + at.warp;
    streamed_ = streamed + share * geometry.stream_chunks * kVectors * kLanes + at.lane;
  }

  // `weight(gate, unit, k)`: the bits of one weight, unit counted in the unit block; zero past the
  // edges. A lane reads back only what it wrote itself: no barrier is needed.
  template <class WeightAt>
  JP_DEVICE void LoadWeights(const WeightAt& weight) {
    for (int c = 0; c < at_.chunks; ++c) {
      Pack(weight, c, c < kResident ? shared_ : Beyond(c));
      JP_UNROLL
      for (int r = 0; r < kResident; ++r) {
        if (r == c) resident_[r] = Unpack(shared_);
      }
    }
  }

  // Multiplies a tile that has `rows` rows and leaves the sums to Result(), until the call after
  // the next.
  template <class Reader>
  JP_DEVICE void Multiply(Reader& reader, int rows) {
    Accumulator<Dtype, kTiles> sums(stage_);
    Vec16B ahead[kAhead];
    JP_UNROLL
    for (int c = 0; c < kAhead; ++c) ahead[c] = c < at_.chunks ? reader.Load(c) : Vec16B{};
    reader.AwaitFirst(ahead, at_.chunks);
    JP_UNROLL
    for (int c = 0; c < kResident; ++c) {
      if (c >= at_.chunks) continue;
      if (c >= kAhead) reader.Await(c, ahead[c % kAhead]);
      Advance(reader, rows, c, resident_[c], ahead[c % kAhead], sums);
    }
    for (int first = kResident; first < at_.chunks; first += kAhead) {
      JP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int c = first + i;
        Vec16B& loaded = ahead[(kResident + i) % kAhead];
        if (c >= at_.chunks) continue;
        reader.Await(c, loaded);
        Advance(reader, rows, c, Unpack(Beyond(c)), loaded, sums);
      }
    }
    reader.Finish();
    Share(sums);
  }

  // Of the lane's (unit, row) pair `slot`, for one gate: slot = 2 eight + column.
  JP_DEVICE float Result(int slot, int gate) const {
    const float* from = Partials(0) + (slot * kTraits.gates + gate) * kLanes;
    float sum = 0.0f;
    JP_UNROLL
    for (int k = 0; k < kMostWarps; ++k) {
      if (k < geometry_.warps_k) sum += from[k * kPartial];
    }
    return sum;
  }

 private:
  static constexpr int kPartial = kTraits.slots() * kTraits.gates * kLanes;  // floats of a warp

  template <class Reader>
  JP_DEVICE void Advance(Reader& reader, int rows, int c, const WeightFragments<kTiles>& weights,
                         Vec16B& ahead, Accumulator<Dtype, kTiles>& sums) {
    arch::SyncWarp();  // lanes may have waited for different words
    sums.Add(weights, ahead, rows, [&] {
      if (c + kAhead < at_.chunks) ahead = reader.Load(c + kAhead);
    });
  }

  JP_DEVICE void Share(Accumulator<Dtype, kTiles>& sums) {
    parity_ ^= 1;
    float value[kTiles][4];
    sums.Finish(value);
    float* to = Partials(at_.warp_k);
    JP_UNROLL
    for (int slot = 0; slot < kTraits.slots(); ++slot) {
      JP_UNROLL
      for (int gate = 0; gate < kTraits.gates; ++gate) {
        const int group = slot / 2 * kTraits.gates + gate;
        to[(slot * kTraits.gates + gate) * kLanes] = value[group / 2][group % 2 * 2 + slot % 2];
      }
    }
    // One barrier a product: a warp that is past the next one has read this one's sums, and the
    // sums after that go where these are.
    if (geometry_.warps_k == 1) {
      arch::SyncWarp();
    } else {
      arch::SyncNamed(1 + at_.warp_m, geometry_.warps_k * kLanes);
    }
  }

  JP_DEVICE float* Partials(int warp_k) const {
    const int block = (parity_ * geometry_.warps_m + at_.warp_m) * geometry_.warps_k + warp_k;
    return partials_ + block * kPartial;
  }

  // Where chunk c's weights are, past the registers.
  JP_DEVICE Vec16B* Beyond(int c) const {
    const int shared = c - kResident, streamed = shared - geometry_.shared_chunks;
    return streamed < 0 ? shared_ + shared * kVectors * kLanes
                        : streamed_ + streamed * kVectors * kLanes;
  }

  template <class WeightAt>
  JP_DEVICE void Pack(const WeightAt& weight, int c, Vec16B* to) const {
    const int first = ((at_.first_chunk + c) * 4 + at_.t) * kPerVector<Dtype>;
    JP_UNROLL_4  // for loads in flight
        for (int i = 0; i < 8 * kTiles; ++i) {
      const int w = i / (4 * kTiles) * 2 + i / 2 % 2, tile = i / 4 % kTiles, half = i % 2;
      // Eight rows of weights are one gate of eight units.
      const int group = 2 * tile + half, gate = group % kTraits.gates;
      const int unit = at_.row + group / kTraits.gates * 8;
      uint32_t word = 0;
      for (int e = 0; e < kPerWord<Dtype>; ++e) {
        word |= uint32_t{weight(gate, unit, first + w * kPerWord<Dtype> + e)} << (16 * e);
      }
      to[i / 4 * kLanes].word[i % 4] = Dtype::AsFactor(word);
    }
  }

  JP_DEVICE WeightFragments<kTiles> Unpack(const Vec16B* from) const {
    WeightFragments<kTiles> weights;
    JP_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const Vec16B vector = from[i * kLanes];
      JP_UNROLL
      for (int j = 0; j < 4; ++j) weights.fragment[i / kTiles][i % kTiles][j] = vector.word[j];
    }
    return weights;
  }

  const Geometry& geometry_;
  const ThreadCoords at_;  // a copy: an object that points into itself would stay in memory
  float* partials_;
  Vec16B *shared_, *stage_, *streamed_;
  int parity_ = 0;
  WeightFragments<kTiles> resident_[kResident] = {};
};

}  // namespace jp::cuda
