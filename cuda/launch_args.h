// What one launch is given: the call's arrays, their geometry, and where the blocks meet.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/arch_types.h"
#include "native/cpu/job.h"
#include "cuda/plan.h"

namespace jp::cuda {

// How a block of a grid knows that others have written.
enum class Signal {
  kData,     // the values themselves: until they are written, their place holds kUnwritten
  kBarrier,  // a counter that every writer adds to
};

// The exchanged sequence, a message of every step: h forward, the product's gradient backward. In
// global memory it is the result of that name where 16-byte loads can read that, a copy with padded
// rows otherwise. Strides in elements.
struct Messages {
  void* base;
  int64_t group_stride, step_stride, row_stride;
  bool is_result;       // nobody need store the values a second time
  const void* initial;  // [N,B] rows: what the first step reads, likewise as it is or a padded copy
  int64_t initial_row_stride;
};

// Sizes in the type that the kernels count in; offsets into arrays are 64 bits wide.
struct Shape {
  int groups, batch, steps, hidden;
  bool reverse, time_major;
};

template <class Arrays>
struct LaunchArgs {
  static constexpr const char* kKernel =
      std::is_same_v<Arrays, cpu::Forward> ? "forward" : "backward";

  Shape shape;
  Arrays arrays;
  Geometry pass;
  Messages messages;
  Signal signal;
  uint32_t* counters;         // one a tile of a team, zero at first; Signal::kBarrier's
  Vec16B* streamed;             // weights that neither registers nor shared memory hold
  uint64_t timeout_ns;  // before a block gives up on the others
};

}  // namespace jp::cuda
