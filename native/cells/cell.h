// SPDX-License-Identifier: Apache-2.0
// What a cell is to the native code.
//
// Legend: T time steps, B batch, H hidden units, G gates.
//
// A cell is a struct of constants and two functions over a value type V, which is a float on a GPU
// and a SIMD vector on a CPU; `Math` has V as its Value, and Sigmoid, Tanh, Relu and Heaviside (1
// where positive, else 0) for it. Matrix products know nothing of cells, cells nothing of products.
//
//   kGates, kResiduals, kStates   G; values a unit and step that backward reads; states, h first.
//                                 The states after h are the last of the residuals
//   kResetAfter                   the recurrent gates' gradients differ from the input gates', as a
//                                 GRU that resets after the product scales the latter by r
//   kReadsPreviousH, kReadsH      what Backward reads besides the residuals
//
//   Forward:  input_gates[G], recurrent_gates[G], state[kStates] in and out (state[0] is h),
//             residuals[kResiduals] out
//   Backward: residuals[kResiduals], previous[kStates] (states before the step), h (after it);
//             d_state[kStates] in: gradients of the states after the step;
//             d_state out: gradients of the states before it, without the product's share;
//             d_input_gates[G] out; d_recurrent_gates[G] out if kResetAfter
//
// A new cell is a file like lstm.h and a line in cells.def.
#pragma once

#include "native/portable.h"
