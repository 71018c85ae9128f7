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

// Gradients of the weights are sums over rows and steps: either the kernel takes them, and needs x,
// or it gives what they are sums of, and XLA takes them, across devices perhaps.
struct Backward {
  static constexpr int64_t kExtraSteps = 2;  // and the initial states' gradients after the last

  const void* x;                 // [N,B,T,I] sequence, if gradients of the weights are wanted
  const void* input_kernel;      // [N,I,G*H], if d_x is wanted
  const void* recurrent_kernel;  // [N,H,G*H]
  const int32_t* lengths;        // [N,B]
  const void* initial[2];        // [N,B,H] a state
  const void* outputs;           // [N,B,T,H] sequence
  const void* saved;             // [N,B,T,S*H] sequence, or null
  const void* d_outputs;         // [N,B,T,H] sequence
  const void* d_final[2];        // [N,B,H] a state
  void* d_x;                     // [N,B,T,I] sequence, or null
  void* d_input_kernel;          // [N,I,G*H], or null; so are the three after it
  void* d_bias;                  // [N,G*H]
  void* d_recurrent_kernel;      // [N,H,G*H]
  void* d_recurrent_bias;        // [N,G*H], or null
  void* d_gates_x;               // [N,B,T,G*H] sequence, null if those are not; and so is
  void* d_product;               // [N,B,T,G*H] sequence, or null
  void* d_initial[2];            // [N,B,H] a state
};

// What all workers of a call read and write, each its own units.
template <class Arrays>
struct Job {
  Shape shape;
  CellTraits cell;
  DType dtype;
  CpuPass pass;       // of the recurrence
  CpuPass inputs;     // of the products with the input weights
  CpuPass d_weights;  // of the weights' gradients
  // Of a group: what the workers do between two meetings. They pack the weights; then each is a
  // time step or one of the extra steps. By rows it is a chunk, or the gradients of weights after
  // one.
  int64_t phases;
  int64_t chunk_steps;
  int64_t part_rows;  // of a chunk that are taken at a time, kChunkRows at most
  Arrays arrays;

  // Working memory; what is [slices] or [workers] has a part for each, one after the other. Where
  // workers have rows of their own there is one slice.
  void* packed;         // [slices] recurrent weights, in the order in which they are read
  void* packed_inputs;  // [slices] input weights, likewise
  float* bias;          // [slices][columns] in the order of the packed columns
  float* products;      // [slices][rows of a chunk] or [workers][rows of a part][columns] of inputs
  float* copies;        // [workers][part_rows][copy_row] factors that can't be read where they are
  void* d_gates;        // [2][rows of a chunk][G*H] of two chunks, by turns
  float* d_columns;    // [workers][gradients][packed] a chunk's gradients by column, as weights are
  float* d_sums;       // [workers][sums_rows()][d_width] the weights' gradients so far
  float* d_bias_sums;  // [workers][gradients][d_width]
  float* transposed;   // [workers][I or H][transposed_row] factors
  float* passing;      // [workers][passing_size()] products with weights that are not kept
  float* exchange;     // [2][B][row] what one step hands to the next: h, or the product's gradient
  float* carry;        // [2][B][padded units] what a unit keeps to itself
  int64_t row;         // floats in a row of `exchange`
  int64_t copy_row;
  int64_t transposed_row;

  // Of the gates in each of their two places, where they differ.
  int gradients() const { return cell.separate_product ? 2 : 1; }
  int64_t chunk_rows() const { return chunk_steps * shape.batch; }
  int64_t d_width() const { return d_weights.panels * d_weights.vectors * d_weights.lanes; }
  int64_t passing_size() const {
    return pass.kept() ? 0 : shape.batch * pass.panels * pass.vectors * pass.lanes;
  }
  // Of one chunk the sums are done as soon as they are made, some rows at a time.
  bool sums_are_kept() const { return chunk_steps < shape.steps; }
  int64_t sums_rows() const {
    const int64_t all = shape.inputs + shape.hidden;
    return sums_are_kept() || all < kChunkRows ? all : kChunkRows;
  }
  // What there is to do besides the recurrence.
  bool multiplies_inputs() const {
    if constexpr (requires { arrays.gates_x; }) {
      return arrays.x != nullptr;
    } else {
      return arrays.d_x != nullptr;
    }
  }
  bool sums_weights() const {
    if constexpr (requires { arrays.d_recurrent_kernel; }) {
      return arrays.d_recurrent_kernel != nullptr;
    } else {
      return false;
    }
  }

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
