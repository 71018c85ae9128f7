// SPDX-License-Identifier: Apache-2.0
// One call of the GPU kernels, whatever runs them: its scratch memory, what must be in it before,
// and the launches that make it up.
//
// A device is anything with
//   Fill(to, byte, bytes), CopyRows(to, to_pitch, from, from_pitch, width, rows)   in order, and
//   Launch(kernel, args, blocks, cluster)   which runs `blocks` blocks of args.pass.threads()
//   threads
// behind one another; each returns false once something failed.
#pragma once

#include <algorithm>

#include "cuda/kernels.h"

namespace jp::cuda {

template <class Arrays>
struct Call {
  cpu::Shape shape;
  CellTraits cell;
  Precision number;
  Arrays arrays;
  KernelPlan plan;
  Signal signal;
  uint64_t timeout_ns;
};

// Byte offsets in a call's scratch memory.
struct ScratchLayout {
  int64_t messages, initial, counters, streamed, bytes;
};

template <class Arrays>
constexpr bool kIsForward = std::is_same_v<Arrays, cpu::Forward>;

template <class Arrays>
int MessageSegments(const Call<Arrays>& call) {
  return kIsForward<Arrays> ? 1 : call.cell.gates;
}

// Rows of H elements are read 16 bytes at a time: can they be?
template <class Arrays>
bool RowsAreAligned(const Call<Arrays>& call) {
  return call.plan.pass.segment == call.shape.hidden;
}

template <class Arrays>
ScratchLayout LayOutScratch(const Call<Arrays>& call) {
  const auto align = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const Geometry& pass = call.plan.pass;
  const bool copies = !pass.cluster && !RowsAreAligned(call);
  const int64_t rows = call.shape.groups * call.shape.batch;
  const int64_t row_bytes = int64_t{pass.segment} * ElementBytes(call.number);
  ScratchLayout at{};
  at.initial = copies ? align(rows * call.shape.steps * MessageSegments(call) * row_bytes) : 0;
  at.counters = at.initial + (copies && kIsForward<Arrays> ? align(rows * row_bytes) : 0);
  const int64_t counters = int64_t{call.plan.launch_teams} * pass.tiles_per_team;
  at.streamed =
      at.counters + (call.signal == Signal::kBarrier ? align(counters * sizeof(uint32_t)) : 0);
  at.bytes = at.streamed + call.plan.streamed_bytes;
  return at;
}

// Where the messages go, and what their places hold before the first launch.
template <class Arrays, class Device>
bool PrepareMessages(const Call<Arrays>& call, const ScratchLayout& at, unsigned char* scratch,
                     Device& device, Messages& m) {
  m = {};
  if (call.plan.pass.cluster) return true;
  const cpu::Shape& s = call.shape;
  const int64_t row = int64_t{MessageSegments(call)} * call.plan.pass.segment;
  const int64_t bytes = ElementBytes(call.number);
  m.is_result = RowsAreAligned(call);
  const bool time_major = s.time_major || !m.is_result;
  m.group_stride = s.batch * s.steps * row;
  m.step_stride = time_major ? s.batch * row : row;
  m.row_stride = time_major ? row : s.steps * row;
  m.base = scratch + at.messages;
  if constexpr (kIsForward<Arrays>) {
    if (m.is_result) m.base = call.arrays.outputs;
    const int64_t hidden = s.hidden * bytes, pitch = row * bytes, rows = s.groups * s.batch;
    m.initial = call.arrays.initial[0];
    m.initial_row_stride = row;
    if (!m.is_result) {
      unsigned char* to = scratch + at.initial;
      m.initial = to;
      if (!device.Fill(to, 0, rows * pitch)) return false;
      if (!device.CopyRows(to, pitch, call.arrays.initial[0], hidden, hidden, rows)) return false;
    }
  } else if (m.is_result) {
    m.base = call.cell.separate_product ? call.arrays.d_product : call.arrays.d_gates_x;
  }
  if (call.signal == Signal::kBarrier) return true;
  return device.Fill(m.base, 0xff, s.groups * m.group_stride * bytes);  // kUnwritten
}

template <class Arrays, class Device>
bool Run(const Call<Arrays>& call, unsigned char* scratch, Device& device) {
  const ScratchLayout at = LayOutScratch(call);
  LaunchArgs<Arrays> args{};
  const cpu::Shape& s = call.shape;
  args.shape = {static_cast<int>(s.groups),
                static_cast<int>(s.batch),
                static_cast<int>(s.steps),
                static_cast<int>(s.hidden),
                s.reverse,
                s.time_major};
  args.arrays = call.arrays;
  args.pass = call.plan.pass;
  args.signal = call.signal;
  args.counters = reinterpret_cast<uint32_t*>(scratch + at.counters);
  args.streamed = reinterpret_cast<Vec16B*>(scratch + at.streamed);
  args.timeout_ns = call.timeout_ns;
  if (!PrepareMessages(call, at, scratch, device, args.messages)) return false;

  const Kernel<Arrays> kernel =
      KernelsOf(call.cell.kind, call.number).template Of<Arrays>(args.pass.cluster);
  for (int first = 0; first < call.plan.teams; first += call.plan.launch_teams) {
    args.pass.first_team = first;
    const int teams = std::min(call.plan.launch_teams, call.plan.teams - first);
    if (call.signal == Signal::kBarrier &&
        !device.Fill(args.counters, 0, at.streamed - at.counters)) {
      return false;
    }
    const int cluster = args.pass.cluster ? args.pass.blocks_per_team : 1;
    if (!device.Launch(kernel, args, teams * args.pass.blocks_per_team, cluster)) return false;
  }
  return true;
}

}  // namespace jp::cuda
