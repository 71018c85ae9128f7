// One call of the CPU kernels: what is given, where it goes, and the memory that the workers share.
//
// Legend: N groups (independent weights), T time steps, B batch, H hidden units, G gates, S saved.
// A sequence is [N,B,T,F] or, time-major, [N,T,B,F]. Element type T_ is float or bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/cells/cell.h"
#include "native/plan/cpu_plan.h"

namespace jp::cpu {

enum class DType { kFloat32, kBfloat16, kFloat16 };  // the last on GPUs alone

constexpr size_t ByteWidth(DType type) { return type == DType::kFloat32 ? 4 : 2; }

struct Shape {
  int64_t groups, batch, steps, hidden;
  bool reverse, time_major;
};

struct Forward {
  static constexpr int64_t kExtraSteps = 1;  // packing before the first time step

  const void* gates_x;           // [N,B,T,G*H] sequence
  const void* recurrent_kernel;  // [N,H,G*H]
  const void* recurrent_bias;    // [N,G*H], or null
  const int32_t* lengths;        // [N,B]
  const void* initial[2];        // [N,B,H] a state
  void* outputs;                 // [N,B,T,H] sequence
  void* final[2];                // [N,B,H] a state
  void* saved;                   // [N,B,T,S*H] sequence, or null
};

struct Backward {
  static constexpr int64_t kExtraSteps = 2;  // and the initial states' gradients after the last

  const void* recurrent_kernel;  // [N,H,G*H]
  const int32_t* lengths;        // [N,B]
  const void* initial[2];        // [N,B,H] a state
  const void* outputs;           // [N,B,T,H] sequence
  const void* saved;             // [N,B,T,S*H] sequence, or null
  const void* d_outputs;         // [N,B,T,H] sequence
  const void* d_final[2];        // [N,B,H] a state
  void* d_gates_x;               // [N,B,T,G*H] sequence
  void* d_product;               // [N,B,T,G*H] sequence, or null
  void* d_initial[2];            // [N,B,H] a state
};

// What all workers of a call read and write, each its own units.
template <class Arrays>
struct Job {
  Shape shape;
  CellTraits cell;
  DType dtype;
  CpuPass pass;
  Arrays arrays;

  void* packed;     // weights, slice after slice, in the order in which they are read
  float* exchange;  // [2][B][row] what one step hands to the next: h, or the product's gradient
  float* carry;     // [2][B][padded units] what a unit keeps to itself
  int64_t row;      // floats in a row of `exchange`
};

}  // namespace jp::cpu
