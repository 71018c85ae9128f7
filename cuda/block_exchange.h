// SPDX-License-Identifier: Apache-2.0
// How a block deals with the others of its team: it reads the message of the step before, sends its
// own, and knows when they are complete. One class for each way, with the same functions.
#pragma once

#include "cuda/message_barriers.h"

namespace jp::cuda {

// Through L2.
template <class Dtype, class Arrays>
class GridExchange {
  using Bits = typename Dtype::Bits;

 public:
  static constexpr bool kNeedsClusters = false;
  // A message is the result itself: a row's first step and a reset read their states elsewhere.
  static constexpr bool kCarriesStates = false;

  JP_DEVICE GridExchange(const LaunchArgs<Arrays>& args, const ThreadCoords& at,
                         const TileEnds<Arrays>& /*ends*/, int segments)
      : args_(args),
        at_(at),
        base_(static_cast<Bits*>(args.messages.base) + args.FirstRow(at.group) * args.messages.row),
        row_bytes_(segments * args.geometry.segment * int{sizeof(Bits)}) {}

  template <class InitialRow>
  JP_DEVICE void Start(const InitialRow& /*initial*/) {}
  JP_DEVICE void Finish() {}
  JP_DEVICE bool StoresResults() const { return !args_.messages.is_result; }

  // What row b reads at time t: the message of the step that ran before, or forward a state.
  JP_DEVICE GridReader Reader(int step, int tile, int b, int t) {
    const TimeoutContext context = ContextOf(args_, step, started_);
    const bool has_barrier = args_.geometry.exchange == Exchange::kGridBarrier;
    if (has_barrier && step > 0) AwaitBarrier(static_cast<uint32_t>(step), tile, context);
    const Messages& m = args_.messages;
    const Rows<int> rows = args_.RowsOf(at_.group);
    const int from = LaunchArgs<Arrays>::kIsForward ? rows.Before(t) : rows.After(t);
    // Rows that don't run have no product, whose message nobody waits for.
    const bool exists = b < rows.batch && rows.Runs(b, LaunchArgs<Arrays>::kIsForward ? t : from);
    bool resets = false, begins = false;
    if constexpr (LaunchArgs<Arrays>::kIsForward) {
      resets = exists && rows.IsReset(b, t);
      begins = exists && rows.IsFirst(b, t);
    }
    const bool is_state = resets || begins;
    const void* const states = resets ? m.reset_state : m.initial_state;
    const Bits* row =
        is_state ? static_cast<const Bits*>(states) + (at_.group * rows.batch + b) * m.state_stride
                 : base_ + from * m.step_stride + b * m.row_stride;
    const int offset = at_.first_chunk * kChunkBytes + at_.t * int{sizeof(Vec16B)};
    const int left = row_bytes_ - offset + kChunkBytes - 1;
    const int chunks =
        exists && left > 0 && !(is_state && states == nullptr) ? left / kChunkBytes : 0;
    // A reader is done before the next one is asked for.
    started_ = started_ || (has_barrier && step > 0) || (!is_state && chunks > 0);
    return {.first = reinterpret_cast<const unsigned char*>(row) + offset,
            .chunks = chunks,
            .is_signal = !has_barrier && !is_state,
            .context = context};
  }

  JP_DEVICE void Send(int /*step*/, int /*tile*/, int time, int b, int /*row*/, int gate, int unit,
                      Bits bits) const {
    const GridWriter<Dtype> writer{base_ + time * args_.messages.step_stride,
                                   args_.messages.row_stride, args_.geometry.segment};
    writer.Send(at_, b, b < args_.rows.batch, gate, unit, bits);
    if (args_.geometry.fetches_ahead) FetchAhead(time, b, gate, unit);
  }

  // After this warp's last Send of a step.
  JP_DEVICE void Sent(int tile) const {
    if (args_.geometry.exchange != Exchange::kGridBarrier) return;
    arch::SyncWarp();
    if (at_.lane == 0) arch::AddRelease(Counter(tile), 1);
  }

 private:
  JP_DEVICE uint32_t* Counter(int tile) const {
    return args_.counters + at_.team * args_.geometry.tiles_per_team + tile;
  }

  // Brings the place of the message after the next into L2, where its first reader would otherwise
  // find half a sector written and wait for the rest of it from memory.
  JP_DEVICE void FetchAhead(int time, int b, int gate, int unit) const {
    const Rows<int> rows = args_.RowsOf(at_.group);
    const int ahead = LaunchArgs<Arrays>::kIsForward ? rows.After(rows.After(time))
                                                     : rows.Before(rows.Before(time));
    const bool exists = ahead >= 0 && ahead < rows.steps && b < rows.batch;
    if (at_.row == 0 && exists && unit < args_.geometry.segment) {
      const Messages& m = args_.messages;
      arch::Prefetch(base_ + ahead * m.step_stride + b * m.row_stride +
                     gate * args_.geometry.segment + unit);
    }
  }

  // Until every warp that sends has sent `step` times.
  JP_DEVICE void AwaitBarrier(uint32_t step, int tile, const TimeoutContext& context) const {
    const uint32_t expected = step * static_cast<uint32_t>(args_.geometry.senders);
    if (at_.lane == 0) {
      Timeout timeout(context.timeout_ns);
      for (uint32_t seen; (seen = arch::LoadAcquire(Counter(tile))) < expected;) {
        if (timeout.Expired()) arch::Trap(context.kernel, context.step, expected, seen);
      }
    }
    arch::SyncWarp();
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  Bits* base_;
  int row_bytes_;
  bool started_ = false;  // all blocks of the team, as this lane knows
};

// Through the shared memory of a cluster.
template <class Dtype, class Arrays>
class ClusterExchange {
  using Bits = typename Dtype::Bits;

 public:
  static constexpr bool kNeedsClusters = true;
  // Readers do not know lengths and resets: rows that do not run send their state again, and a row
  // that is reset next sends the reset state.
  static constexpr bool kCarriesStates = true;

  JP_DEVICE ClusterExchange(const LaunchArgs<Arrays>& args, const ThreadCoords& at,
                            const TileEnds<Arrays>& ends, int segments)
      : args_(args),
        at_(at),
        ends_(ends),
        barriers_(args, ends),
        messages_(arch::SharedMemory() + args.geometry.messages),
        row_bytes_(static_cast<uint32_t>(segments * args.geometry.segment) * sizeof(Bits)) {}

  // Whole block: the first message of each tile has the rows that `initial` gives; null: zeros.
  template <class InitialRow>
  JP_DEVICE void Start(const InitialRow& initial) {
    const int words = args_.geometry.message_pitch / int{sizeof(Bits)};
    const int all = at_.tiles * 2 * kTileRows * words;
    Bits* to = reinterpret_cast<Bits*>(messages_);
    for (int i = arch::ThreadIndex(); i < all; i += args_.geometry.threads()) {
      const int k = i % words, row = i / words % kTileRows, tile = i / words / kTileRows;
      const int b = (at_.first_tile + tile / 2) * kTileRows + row;
      const Bits* from = tile % 2 == 0 && b < args_.rows.batch ? initial(b) : nullptr;
      to[i] = from != nullptr && k < args_.hidden ? from[k] : Bits{0};
    }
    barriers_.Start(at_.tiles, [this](int tile) { return MessageBytes(tile); });
    arch::SyncCluster();
  }

  // No block may leave while others still write to it.
  JP_DEVICE void Finish() { arch::SyncCluster(); }
  JP_DEVICE bool StoresResults() const { return true; }

  JP_DEVICE ClusterReader Reader(int step, int tile, int /*b*/, int /*t*/) {
    // The blocks of a cluster start together.
    if (step > 0) {
      barriers_.Await(step, tile, MessageBytes(tile), ContextOf(args_, step, true));
    }
    const unsigned char* row = Message(step, tile) + at_.row * args_.geometry.message_pitch;
    return {reinterpret_cast<const Vec16B*>(row) + at_.first_chunk * 4 + at_.t};
  }

  JP_DEVICE void Send(int step, int tile, int /*time*/, int b, int row, int gate, int unit,
                      Bits bits) const {
    if (!ends_.HasProduct(step + 1, tile)) return;
    const ClusterWriter<Dtype> writer{Message(step + 1, tile), barriers_.Of(step + 1, tile),
                                      args_.geometry.message_pitch, args_.geometry.segment,
                                      args_.geometry.receivers};
    writer.Send(at_, row, b < args_.rows.batch, gate, unit, bits);
  }
  JP_DEVICE void Sent(int /*tile*/) const {}

 private:
  JP_DEVICE unsigned char* Message(int step, int tile) const {
    const int which = MessageBarriers<Arrays>::Which(step, tile);
    return messages_ + which * kTileRows * args_.geometry.message_pitch;
  }
  // Of the rows there are; the others stay as Start left them.
  JP_DEVICE uint32_t MessageBytes(int tile) const {
    const int left = args_.rows.batch - (at_.first_tile + tile) * kTileRows;
    return (left < kTileRows ? left : kTileRows) * row_bytes_;
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  const TileEnds<Arrays> ends_;
  MessageBarriers<Arrays> barriers_;
  unsigned char* messages_;
  uint32_t row_bytes_;
};

}  // namespace jp::cuda
