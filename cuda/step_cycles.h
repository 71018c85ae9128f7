// SPDX-License-Identifier: Apache-2.0
// What a step costs, in cycles of an H100: the model of cuda/README.md, by which the planner
// chooses between layouts. benchmarks/cycles.py has it once more, with its sources; a test of each
// holds both to the same figures. Nothing on a GPU has confirmed it.
#pragma once

#include <algorithm>

#include "cuda/geometry.h"

namespace jp::cuda {

struct StepOf {
  const Problem& problem;
  Precision precision;
  KernelTraits traits;
  int processors;
};

class StepCycles {
 public:
  StepCycles(const Geometry& geometry, const StepOf& step)
      : g_(geometry),
        p_(step.problem),
        t_(step.traits),
        precise_(step.precision == Precision::kFloat32),
        bytes_(ElementBytes(step.precision)),
        rows_(static_cast<double>(std::min<int64_t>(p_.batch, kTileRows))),
        warps_(g_.warps_m * g_.warps_k),
        teams_(static_cast<double>(p_.groups) * g_.teams_per_group),
        at_once_(std::min<double>(teams_, step.processors / g_.blocks_per_team)) {
    // Blocks share what L2 gives; a processor takes so much at most.
    l2_bytes_ = std::min(kPortBytes, kL2Bytes * step.processors / (at_once_ * g_.blocks_per_team));
  }

  // Of one step of all tiles; teams beyond the GPU's processors come later.
  double Total() const {
    const double busy = Message() + Streamed() + Product() + Reduce() + Gather() + Cell();
    const double exchange = g_.cluster() ? kClusterTrip + kSharedTrip : 2 * kL2FarTrip;
    const double waiting = std::max(0.0, exchange - (g_.tiles_per_team - 1) * busy);
    return (waiting + g_.tiles_per_team * busy) * static_cast<double>(Launches());
  }

 private:
  static constexpr double kL2FarTrip = 414, kL2Bytes = 34.6, kPortBytes = 64;
  static constexpr double kLineBytes = 128, kSliceBytes = 64;
  static constexpr double kClusterTrip = 180, kClusterBytes = 13.2;
  static constexpr double kSharedTrip = 29, kSharedBytes = 128, kBarrier = 30;
  static constexpr double kMmaTrip = 33, kMmaRate = 0.629, kMultiplyAdds = 128;
  static constexpr double kAlu = 4, kSpecial = 20, kShuffle = 23, kPrecise = 60;

  static double Ceil(double n, double by) { return static_cast<double>(CeilInt(n / by)); }
  static int64_t CeilInt(double n) {
    const auto whole = static_cast<int64_t>(n);
    return whole + (static_cast<double>(whole) < n);
  }
  int64_t Launches() const { return CeilInt(teams_ / at_once_); }

  double Message() const {
    const double row = static_cast<double>(t_.segments * p_.hidden * bytes_),
                 all = rows_ * row / g_.cut;
    if (g_.cluster()) {
      const double read = g_.warps_m * kTileRows * row / kSharedBytes;
      return all / kClusterBytes + read + kSharedTrip;
    }
    // The groups of chunks after the first, asked for while those before are multiplied; what a
    // block takes in; and a line that all unit blocks read.
    const double group = t_.loads_in_flight * Product() / g_.warp_chunks;
    const double trips =
        (Ceil(g_.warp_chunks, t_.loads_in_flight) - 1) * std::max(0.0, kL2FarTrip - group);
    const double hot = g_.unit_blocks * std::min(all, kLineBytes) / kSliceBytes;
    return std::max({trips, g_.warps_m * all / l2_bytes_, hot});
  }

  double WeightBytes() const { return 2.0 * t_.tiles() * 512 * warps_; }  // of a chunk, all warps
  double Streamed() const { return g_.stream_chunks * WeightBytes() / l2_bytes_; }

  double Product() const {
    const double from_shared = g_.shared_chunks * WeightBytes() / kSharedBytes;
    if (precise_) {
      const double each = rows_ * 4 * 2 * t_.tiles() * 32 / kMultiplyAdds;
      const double staging = rows_ * 512 / kSharedBytes;
      return std::max(g_.warp_chunks * warps_ * std::max(each, staging), from_shared);
    }
    const double chain = 2 * g_.warp_chunks * kMmaTrip / (t_.tiles() <= 2 ? 2 : 1);
    const double issue = warps_ * g_.warp_chunks * 2 * t_.tiles() / kMmaRate;
    return std::max({chain, issue, from_shared});
  }

  double SlotsEach() const { return Ceil(t_.slots() / g_.cut, g_.warps_k); }
  double Reduce() const {
    if (g_.warps_k == 1) return 0;
    const double sums = t_.slots() * t_.gates * 128 * warps_ / kSharedBytes;  // written, and read
    return 2 * sums + kBarrier + g_.warps_k * kAlu * SlotsEach() + kSharedTrip;
  }

  // Of a K that is cut: warps add up the other blocks' sums of 16 units each, four a lane side by
  // side, and send them.
  double Gather() const {
    if (g_.cut == 1) return 0;
    const double vectors = t_.slots() / 4 / g_.cut * (g_.cut - 1);
    const double adding = Ceil(vectors, g_.warps_k) * g_.warps_k * kAlu + kSharedTrip;
    const double taking = g_.cut * kAlu * SlotsEach() + kSharedTrip;
    return adding + vectors * 512 / kClusterBytes + kClusterTrip + taking;
  }

  double Cell() const {
    const double rounding = bytes_ == 2 ? kShuffle : 0;
    const double handing = g_.cluster() ? 2 * kShuffle * t_.segments : 0;
    return SlotsEach() * (Arithmetic() + rounding + handing);
  }
  double Arithmetic() const {
    const double curve = 4 * kAlu + 2 * kSpecial + (bytes_ == 4 ? kPrecise : 0);
    const int gates = p_.cell.gates;  // 4: an LSTM; 3: a GRU; 1: an Elman network
    if (p_.pass == Pass::kBackward) {
      return gates == 4 ? curve + 6 * kAlu : gates == 3 ? 8 * kAlu : 3 * kAlu;
    }
    return gates == 1 ? curve + 2 * kAlu : 2 * curve + (gates == 4 ? 5 : 6) * kAlu;
  }

  const Geometry& g_;
  const Problem& p_;
  const KernelTraits& t_;
  bool precise_;
  int bytes_;
  double rows_, warps_, teams_, at_once_, l2_bytes_ = 0;
};

}  // namespace jp::cuda
