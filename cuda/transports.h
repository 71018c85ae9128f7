// SPDX-License-Identifier: Apache-2.0
// How a block hands its part of a message to the blocks of its team, and gets theirs.
//
// Grid: through L2, in `messages`. Every step has a place of its own and nothing is overwritten, so
// a reader needs no permission and the data can be the signal: a word that is not kUnwritten has
// arrived, each word for itself, in whatever order the memory delivers them. (A barrier costs three
// trips to L2 before the read: write, arrive, poll.)
//
// Cluster: into the shared memory of every block of the team, two messages deep. A block writes a
// message only when it has read the one before in full, from all blocks, and each of those was
// written after its writer had read the one before that: what is overwritten has been read.
#pragma once

#include "cuda/dtypes.h"
#include "cuda/thread_coords.h"

namespace jp::cuda {

// What a wait may take, and what is said when it takes longer.
struct TimeoutContext {
  const char* kernel;
  uint64_t timeout_ns;
  int step;
};

// The blocks of a grid need not all start at once, for other work may be on the GPU: as long as a
// thread has not heard from the others at all, it waits so many times as long.
constexpr uint64_t kTimeoutsToStart = 30;

// `started`: the others have.
template <class Arrays>
JP_DEVICE TimeoutContext ContextOf(const LaunchArgs<Arrays>& args, int step, bool started) {
  const uint64_t timeout_ns = started ? args.timeout_ns : args.timeout_ns * kTimeoutsToStart;
  return {LaunchArgs<Arrays>::kKernel, timeout_ns, step};
}

// Counts the time of one wait that the block could have made progress in: of what lies between two
// looks at the clock no more than 10 ms count, as a debugger, another process's turn on the GPU or
// a suspended machine take longer.
class Timeout {
 public:
  // Where a look itself waits, the clock is looked at every time.
  JP_DEVICE explicit Timeout(uint64_t nanoseconds, uint32_t looks_per_clock = 32)
      : limit_(Units(nanoseconds)), looks_per_clock_(looks_per_clock) {}

  // Between two looks: has it been too long?
  JP_DEVICE bool Expired() {
    arch::Pause();
    if (++looks_ % looks_per_clock_ != 0) return false;
    const uint32_t now = Units(arch::Nanoseconds()), since = now - last_;
    if (looks_ > looks_per_clock_) waited_ += since < kMost ? since : kMost;
    last_ = now;
    return waited_ > limit_;
  }

 private:
  // Of 1024 ns: an hour before they wrap, in half the registers.
  JP_DEVICE static uint32_t Units(uint64_t nanoseconds) {
    return static_cast<uint32_t>(nanoseconds >> 10);
  }
  static constexpr uint32_t kMost = 10'000'000 >> 10;

  uint32_t limit_, looks_per_clock_, waited_ = 0, last_ = 0, looks_ = 0;
};

JP_DEVICE bool Unwritten(const Vec16B& q) {
  return q.word[0] == kUnwritten || q.word[1] == kUnwritten || q.word[2] == kUnwritten ||
         q.word[3] == kUnwritten;
}

// One lane's 16 bytes of each chunk of a message, as its warp multiplies them.
struct GridReader {
  const unsigned char* first;  // this lane's part of the warp's first chunk
  int chunks;                  // that the row has for this lane; what is past them is zero
  bool is_signal;              // wait for the data; else it is there
  TimeoutContext context;
  bool timed_out = false;  // and reads on, to end in one place

  JP_DEVICE Vec16B Load(int chunk) const {
    if (chunk >= chunks) return Vec16B{};
    return arch::LoadRelaxed(first + chunk * kChunkBytes);
  }

  JP_DEVICE void Await(int chunk, Vec16B& vector) {
    if (!is_signal || !Unwritten(vector)) return;
    Timeout timeout(context.timeout_ns);
    while (Unwritten(vector) && !timed_out) {
      timed_out = timeout.Expired();
      vector = Load(chunk);
    }
  }
  // The first chunks, all looked at at once: those that were asked for too early are asked for
  // again together, so that one trip to L2 does for all of them. A lane leaves with all that it
  // waits for, or timed out; what its row does not have is zero, and never waited for. `chunks`:
  // of the warp, the same in all lanes.
  template <int kCount>
  JP_DEVICE void AwaitFirst(Vec16B (&vectors)[kCount], int chunks) {
    if (!is_signal) return;
    Timeout timeout(context.timeout_ns);
    while (!timed_out) {
      bool late[kCount], any = false;
      JP_UNROLL
      for (int c = 0; c < kCount; ++c) any |= late[c] = c < chunks && Unwritten(vectors[c]);
      if (!any) return;
      timed_out = timeout.Expired();
      JP_UNROLL
      for (int c = 0; c < kCount; ++c) {
        if (late[c]) vectors[c] = Load(c);
      }
    }
  }
  JP_DEVICE void Finish() const {
    if (timed_out) arch::Trap(context.kernel, context.step, 0, kUnwritten);
  }
};

struct ClusterReader {
  const Vec16B* row;  // of the message, this lane's vector of the first chunk

  JP_DEVICE Vec16B Load(int chunk) const { return row[chunk * (kChunkBytes / sizeof(Vec16B))]; }
  JP_DEVICE void Await(int /*chunk*/, const Vec16B& /*vector*/) const {}
  template <int kCount>
  JP_DEVICE void AwaitFirst(Vec16B (&)[kCount], int /*chunks*/) const {}
  JP_DEVICE void Finish() const {}
};

// Where one (step, tile)'s message goes: `Send` is called by whole warps, with each lane's value of
// one row and unit; `unit` is the first of the eight units of the warp's lanes.
template <class Dtype>
struct GridWriter {
  using Bits = typename Dtype::Bits;
  Bits* message;  // row 0 of the batch at this time
  int64_t row_stride;
  int segment;

  JP_DEVICE void Send(const ThreadCoords& at, int b, bool has_row, int gate, int unit,
                      Bits bits) const {
    bits = Publishable(bits);
    const int mine = unit + at.row;
    Bits* to = message + b * row_stride + gate * segment + mine;
    if constexpr (sizeof(Bits) == 4) {
      if (has_row && mine < segment) arch::StoreRelaxed(to, bits);
    } else {
      // Two neighbours' halves make a word: one store, so that no reader sees half of it.
      const uint32_t other = arch::ShuffleXor(uint32_t{bits}, 4);
      if (has_row && mine < segment && at.row % 2 == 0) {
        arch::StoreRelaxed(reinterpret_cast<uint32_t*>(to), bits | other << 16);
      }
    }
  }
};

template <class Dtype>
struct ClusterWriter {
  using Bits = typename Dtype::Bits;
  unsigned char* message;  // row 0 of the tile
  uint64_t* barrier;
  int row_pitch, segment, blocks;

  // Eight lanes, those of one t, gather their units' values and share out the blocks of the team.
  JP_DEVICE void Send(const ThreadCoords& at, int row, bool has_row, int gate, int unit,
                      Bits bits) const {
    constexpr int kVectors = 8 / kPerVector<Dtype>;
    uint32_t word = bits;
    if constexpr (sizeof(Bits) == 2) {
      const uint32_t other = arch::ShuffleXor(word, 4);
      word = at.row % 2 == 0 ? word | other << 16 : other | word << 16;
    }
    Vec16B vectors[kVectors];
    JP_UNROLL
    for (int i = 0; i < 4 * kVectors; ++i) {
      const int from = (kVectors == 1 ? 2 * i : i) * 4 + at.t;
      vectors[i / 4].word[i % 4] = arch::Shuffle(word, from);
    }
    if (!has_row) return;
    unsigned char* to = message + row * row_pitch + (gate * segment + unit) * int{sizeof(Bits)};
    for (int rank = at.row; rank < blocks; rank += 8) {
      const arch::ClusterAddress there = arch::MapToRank(to, rank);
      const arch::ClusterAddress signal = arch::MapToRank(barrier, rank);
      JP_UNROLL
      for (int q = 0; q < kVectors; ++q) {
        arch::StoreAsync(there + q * sizeof(Vec16B), vectors[q], signal);
      }
    }
  }
};

}  // namespace jp::cuda
