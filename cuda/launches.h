// SPDX-License-Identifier: Apache-2.0
// One call of the GPU kernels, whatever runs them: its workspace, what must be in it before, and
// the launches that make it up.
//
// A device is anything with
//   Fill(to, byte, bytes), CopyRows(to, to_pitch, from, from_pitch, width, rows), and
//   Launch(args, blocks, cluster)   which runs `blocks` blocks of args.geometry.threads()
// which happen one after the other; each returns false once something failed.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/launch_args.h"
#include "cuda/plan.h"

namespace jp::cuda {

// Byte offsets in a call's workspace; each part begins a line of L2.
struct Workspace {
  int64_t messages, initial_state, reset_state, counters, streamed, bytes;
};

inline constexpr int64_t kWorkspaceLine = 128;

inline Workspace LayOutWorkspace(const Problem& problem, const KernelPlan& plan) {
  const Geometry& g = plan.geometry;
  Workspace at{};
  const auto put = [&at](bool is_there, int64_t bytes) {
    const int64_t first = at.bytes;
    if (is_there) at.bytes += (bytes + kWorkspaceLine - 1) / kWorkspaceLine * kWorkspaceLine;
    return first;
  };
  const bool copies = !g.cluster() && !plan.sends_results;
  const bool copies_states = copies && problem.pass == Pass::kForward;
  const int64_t row_bytes =
      MessageRow(problem, plan.geometry.segment) * ElementBytes(plan.precision);
  const int64_t rows = problem.groups * problem.batch;
  const int64_t counters = int64_t{plan.launch_teams} * g.tiles_per_team;
  at.messages = put(copies, rows * problem.steps * row_bytes);
  at.initial_state = put(copies_states, rows * row_bytes);
  at.reset_state = put(copies_states && problem.has(Part::reset_state), rows * row_bytes);
  at.counters = put(g.exchange == Exchange::kGridBarrier, counters * int64_t{sizeof(uint32_t)});
  at.streamed = put(plan.streamed_bytes > 0, plan.streamed_bytes);
  return at;
}

// Where the rows of `states` can be read 16 bytes at a time: `states` itself, or a copy at `to`.
template <class Device>
const void* PrepareStates(const Problem& problem, const KernelPlan& plan, const void* states,
                          unsigned char* to, Device& device) {
  if (states == nullptr || plan.sends_results) return states;
  const int64_t bytes = ElementBytes(plan.precision), width = problem.hidden * bytes;
  const int64_t pitch = plan.geometry.segment * bytes, rows = problem.groups * problem.batch;
  const bool done =
      device.Fill(to, 0, rows * pitch) && device.CopyRows(to, pitch, states, width, width, rows);
  return done ? to : nullptr;
}

// Where the messages of a grid go, and what their places hold before the first launch.
template <class Arrays, class Device>
bool PrepareMessages(const Problem& problem, const KernelPlan& plan, const Arrays& arrays,
                     const Workspace& at, unsigned char* workspace, Device& device, Messages& m) {
  const int64_t row = MessageRow(problem, plan.geometry.segment), apart = row * problem.ways();
  m.is_result = plan.sends_results;
  const bool time_major = problem.time_major || !m.is_result;
  m.row = row;
  m.step_stride = time_major ? problem.batch * apart : apart;
  m.row_stride = time_major ? apart : problem.steps * apart;
  m.state_stride = row;
  m.base = workspace + at.messages;
  if constexpr (LaunchArgs<Arrays>::kIsForward) {
    if (m.is_result) m.base = arrays.outputs;
    m.initial_state =
        PrepareStates(problem, plan, arrays.initial_state[0], workspace + at.initial_state, device);
    if (m.initial_state == nullptr) return false;
    m.reset_state =
        PrepareStates(problem, plan, arrays.reset_state[0], workspace + at.reset_state, device);
    if (m.reset_state == nullptr && arrays.reset_state[0] != nullptr) return false;
  } else if constexpr (std::is_same_v<Arrays, Backward>) {
    if (m.is_result) {
      m.base = problem.cell.reset_after ? arrays.d_recurrent_gates : arrays.d_input_gates;
    }
  }
  if (plan.geometry.exchange == Exchange::kGridBarrier) return true;
  const int64_t rows = problem.groups * problem.batch * problem.steps;
  return device.Fill(m.base, 0xff, rows * row * ElementBytes(plan.precision));  // kUnwritten
}

// `workspace` is aligned to kWorkspaceLine. A block gives up on the others after `timeout_ns`.
template <class Arrays, class Device>
bool Enqueue(const Problem& problem, const KernelPlan& plan, const Arrays& arrays,
             unsigned char* workspace, uint64_t timeout_ns, Device& device) {
  const Workspace at = LayOutWorkspace(problem, plan);
  LaunchArgs<Arrays> args{};
  args.hidden = static_cast<int>(problem.hidden);
  args.rows = {.batch = static_cast<int>(problem.batch),
               .steps = static_cast<int>(problem.steps),
               .reverse = problem.Reverses(0),
               .time_major = problem.time_major,
               .lengths = arrays.lengths,
               .resets = arrays.resets};
  args.ways = problem.ways();
  args.arrays = arrays;
  args.geometry = plan.geometry;
  args.counters = reinterpret_cast<uint32_t*>(workspace + at.counters);
  args.streamed = reinterpret_cast<Vec16B*>(workspace + at.streamed);
  args.timeout_ns = timeout_ns;
  if (!plan.geometry.cluster() &&
      !PrepareMessages(problem, plan, arrays, at, workspace, device, args.messages)) {
    return false;
  }
  for (int first = 0; first < plan.teams; first += plan.launch_teams) {
    args.geometry.first_team = first;
    const int teams = std::min(plan.launch_teams, plan.teams - first);
    if (plan.geometry.exchange == Exchange::kGridBarrier &&
        !device.Fill(args.counters, 0, at.streamed - at.counters)) {
      return false;
    }
    const int blocks = plan.geometry.blocks_per_team;
    if (!device.Launch(args, teams * blocks, plan.geometry.cluster_blocks())) {
      return false;
    }
  }
  return true;
}

}  // namespace jp::cuda
