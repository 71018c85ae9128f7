// One call of the CPU kernels: what is given, where it goes, and the memory that the workers share.
//
// Legend: N groups (independent weights), T time steps, B batch, I input features, H hidden units,
// G gates, S saved.
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
  int64_t inputs = 0;  // features, or 0 where the kernel has nothing to do with them
};

struct Forward {
  static constexpr int64_t kExtraSteps = 1;  // packing before the first time step

  // The CPU's kernels take the inputs and the weights that project them, the GPU's what XLA has
  // made of them: x W + b.
  const void* x;                 // [N,B,T,I] sequence
  const void* input_kernel;      // [N,I,G*H]
  const void* bias;              // [N,G*H]
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

  const void* input_kernel;      // [N,I,G*H], on CPUs and if d_x is wanted
  const void* recurrent_kernel;  // [N,H,G*H]
  const int32_t* lengths;        // [N,B]
  const void* initial[2];        // [N,B,H] a state
  const void* outputs;           // [N,B,T,H] sequence
  const void* saved;             // [N,B,T,S*H] sequence, or null
  const void* d_outputs;         // [N,B,T,H] sequence
  const void* d_final[2];        // [N,B,H] a state
  void* d_x;                     // [N,B,T,I] sequence, on CPUs, or null
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
  CpuPass pass;    // of the recurrence
  CpuPass inputs;  // of the products with the input weights
  int64_t chunk_steps;
  int64_t part_rows;  // of a chunk that are taken at a time, kChunkRows at most
  Arrays arrays;

  // Working memory; what is [slices] has a part for each, slice after slice.
  void* packed;         // [slices] recurrent weights, in the order in which they are read
  void* packed_inputs;  // [slices] input weights, likewise
  float* bias;          // [slices][columns] in the order of the packed columns
  float* products;      // [slices][rows of a chunk, or of a part][columns] with the input weights
  float* copies;        // [slices][part_rows][copy_row] factors that can't be read where they are
  float* exchange;      // [2][B][row] what one step hands to the next: h, or the product's gradient
  float* carry;         // [2][B][padded units] what a unit keeps to itself
  int64_t row;          // floats in a row of `exchange`
  int64_t copy_row;

  int64_t columns() const { return inputs.panels * inputs.vectors * inputs.lanes; }
};

// A job as the plan lays it out for such a machine, still without memory.
template <class Arrays>
Job<Arrays> MakeJob(const Shape& shape, const CellTraits& cell, DType dtype, const Arrays& arrays,
                    const CpuFacts& facts);

// Bytes of working memory that a job takes. Given as many, aligned to 64, it will work in them.
template <class Arrays>
size_t LayOut(Job<Arrays>& job, void* memory);

}  // namespace jp::cpu
