// A block's dealings with its team: it reads the messages of the step before, sends its own, and
// knows when they are complete. One class for each residency, with the same functions.
#pragma once

#include "cuda/transports.h"

namespace jp::cuda {

template <class Arrays>
JP_DEVICE Waiter WaiterAt(const LaunchArgs<Arrays>& args, int step) {
  return {LaunchArgs<Arrays>::kKernel, args.timeout_ns, step};
}

// Through L2.
template <class Number, class Arrays>
class GridExchange {
  using Bits = typename Number::Bits;

 public:
  static constexpr bool kNeedsClusters = false;
  static constexpr bool kCarriesStates = false;  // a message is the result itself

  JP_DEVICE GridExchange(const LaunchArgs<Arrays>& args, const ThreadCoords& at, int segments)
      : args_(args),
        at_(at),
        base_(static_cast<Bits*>(args.messages.base) + at.group * args.messages.group_stride),
        row_bytes_(segments * args.pass.segment * int{sizeof(Bits)}) {}

  template <class InitialRow>
  JP_DEVICE void Start(const InitialRow& /*initial*/) {}
  JP_DEVICE void Finish() {}
  JP_DEVICE bool StoresResults() const { return !args_.messages.is_result; }

  // Row b of the message of `time`, in the step after it; or of the initial one, which is there.
  JP_DEVICE GridReader Reader(int step, int tile, int b, int time, bool begins) const {
    const Waiter waiter = WaiterAt(args_, step);
    const bool has_data_signal = args_.signal == Signal::kData;
    if (!has_data_signal && step > 0) AwaitBarrier(static_cast<uint32_t>(step), tile, waiter);
    const Messages& m = args_.messages;
    const Bits* row = begins ? static_cast<const Bits*>(m.initial) +
                                   (at_.group * args_.shape.batch + b) * m.initial_row_stride
                             : base_ + time * m.step_stride + b * m.row_stride;
    const bool exists =
        b < args_.shape.batch && (begins || (time >= 0 && time < args_.shape.steps));
    const int offset = at_.first_chunk * kChunkBytes + at_.t * int{sizeof(Vec16B)};
    const int left = row_bytes_ - offset + kChunkBytes - 1;
    return {.first = reinterpret_cast<const unsigned char*>(row) + offset,
            .chunks = exists && left > 0 ? left / kChunkBytes : 0,
            .is_signal = has_data_signal && !begins,
            .waiter = waiter};
  }

  JP_DEVICE void Send(int /*step*/, int /*tile*/, int time, int b, int /*row*/, int gate, int unit,
                      Bits bits) const {
    const GridWriter<Number> writer{base_ + time * args_.messages.step_stride,
                                    args_.messages.row_stride, args_.pass.segment};
    writer.Send(at_, b, b < args_.shape.batch, gate, unit, bits);
  }

  // After this warp's last Send of a step.
  JP_DEVICE void Sent(int tile) const {
    if (args_.signal == Signal::kData) return;
    arch::SyncWarp();
    if (at_.lane == 0) arch::AddRelease(Counter(tile), 1);
  }

 private:
  JP_DEVICE uint32_t* Counter(int tile) const {
    return args_.counters + at_.team * args_.pass.tiles_per_team + tile;
  }

  // Until every warp that sends has sent `step` times.
  JP_DEVICE void AwaitBarrier(uint32_t step, int tile, const Waiter& waiter) const {
    const uint32_t expected = step * static_cast<uint32_t>(args_.pass.senders);
    if (at_.lane == 0) {
      Timeout timeout(waiter.nanoseconds);
      for (uint32_t seen; (seen = arch::LoadAcquire(Counter(tile))) < expected;) {
        if (timeout.Expired()) arch::Trap(waiter.kernel, waiter.step, expected, seen);
      }
    }
    arch::SyncWarp();
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  Bits* base_;
  int row_bytes_;
};

// Through the shared memory of a cluster.
template <class Number, class Arrays>
class ClusterExchange {
  using Bits = typename Number::Bits;

 public:
  static constexpr bool kNeedsClusters = true;
  // A row that has ended, or not begun, hands on its state: nothing else says where it begins.
  static constexpr bool kCarriesStates = true;

  JP_DEVICE ClusterExchange(const LaunchArgs<Arrays>& args, const ThreadCoords& at, int segments)
      : args_(args),
        at_(at),
        messages_(arch::SharedMemory() + args.pass.messages),
        barriers_(reinterpret_cast<uint64_t*>(arch::SharedMemory() + args.pass.barriers)),
        row_bytes_(static_cast<uint32_t>(segments * args.pass.segment) * sizeof(Bits)) {}

  // Whole block: the first message of each tile is the initial one, all zeros if null.
  template <class InitialRow>
  JP_DEVICE void Start(const InitialRow& initial) {
    const int words = args_.pass.message_pitch / int{sizeof(Bits)};
    const int all = at_.tiles * 2 * kTileRows * words;
    Bits* to = reinterpret_cast<Bits*>(messages_);
    for (int i = arch::ThreadIndex(); i < all; i += args_.pass.threads()) {
      const int k = i % words, row = i / words % kTileRows, tile = i / words / kTileRows;
      const int b = (at_.first_tile + tile / 2) * kTileRows + row;
      const Bits* from = tile % 2 == 0 && b < args_.shape.batch ? initial(b) : nullptr;
      to[i] = from != nullptr && k < args_.shape.hidden ? from[k] : Bits{0};
    }
    if (arch::ThreadIndex() < 2 * at_.tiles) {
      uint64_t* barrier = barriers_ + arch::ThreadIndex();
      arch::InitByteBarrier(barrier);
      arch::FenceByteBarrierInit();
      arch::ArriveExpectingBytes(barrier, MessageBytes(arch::ThreadIndex() / 2));
    }
    arch::SyncCluster();
  }

  // No block may leave while others still write to it.
  JP_DEVICE void Finish() { arch::SyncCluster(); }
  JP_DEVICE bool StoresResults() const { return true; }

  JP_DEVICE ClusterReader Reader(int step, int tile, int /*b*/, int /*time*/, bool /*begins*/) {
    if (step > 0) Await(step, tile);
    const unsigned char* row = Message(step, tile) + at_.row * args_.pass.message_pitch;
    return {reinterpret_cast<const Vec16B*>(row) + at_.first_chunk * 4 + at_.t};
  }

  JP_DEVICE void Send(int step, int tile, int /*time*/, int b, int row, int gate, int unit,
                      Bits bits) const {
    if (step + 1 == steps()) return;
    const ClusterWriter<Number> writer{Message(step + 1, tile), Barrier(step + 1, tile),
                                       args_.pass.message_pitch, args_.pass.segment,
                                       args_.pass.receivers};
    writer.Send(at_, row, b < args_.shape.batch, gate, unit, bits);
  }
  JP_DEVICE void Sent(int /*tile*/) const {}

 private:
  JP_DEVICE int steps() const { return args_.shape.steps + int{Arrays::kExtraSteps} - 1; }
  JP_DEVICE unsigned char* Message(int step, int tile) const {
    const int which = 2 * tile + (step & 1);
    return messages_ + which * kTileRows * args_.pass.message_pitch;
  }
  // Of the rows there are; the others stay as Start left them.
  JP_DEVICE uint32_t MessageBytes(int tile) const {
    const int left = args_.shape.batch - (at_.first_tile + tile) * kTileRows;
    return (left < kTileRows ? left : kTileRows) * row_bytes_;
  }
  JP_DEVICE uint64_t* Barrier(int step, int tile) const {
    return barriers_ + 2 * tile + (step & 1);
  }

  // Each buffer's barrier has a phase every second step, beginning with steps 1 and 2.
  JP_DEVICE void Await(int step, int tile) {
    const uint32_t parity = static_cast<uint32_t>((step - 1) / 2) & 1;
    uint64_t* barrier = Barrier(step, tile);
    const Waiter waiter = WaiterAt(args_, step);
    Timeout timeout(waiter.nanoseconds);
    while (!arch::TryWait(barrier, parity)) {
      if (timeout.Expired()) arch::Trap(waiter.kernel, waiter.step, parity, !parity);
    }
    // The phase after cannot end before this block has taken part in the step between.
    if (arch::ThreadIndex() == 0) arch::ArriveExpectingBytes(barrier, MessageBytes(tile));
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  unsigned char* messages_;
  uint64_t* barriers_;
  uint32_t row_bytes_;
};

}  // namespace jp::cuda
