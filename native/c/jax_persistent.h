// SPDX-License-Identifier: Apache-2.0
// The C interface of jax_persistent: LSTM, GRU and Elman networks over whole sequences, forward and
// backward, on a CPU or an NVIDIA GPU. Plain C11 and C++; needs libjax_persistent.so and no Python.
//
// A call in four steps; examples/c/ has them as a program:
//
//   jp_device_create    a CPU's threads, or a GPU
//   jp_plan_create      a problem's forward or backward pass, planned for the device; for a GPU its
//                       kernels are compiled and loaded, too
//   jp_plan_workspace_bytes
//   jp_forward, jp_backward   any number of times, with arrays and a workspace of the caller's
//
// Errors. Functions return a jp_status. If that is not JP_OK, jp_last_error has a text that says
// what was expected and what came, and nothing has been written but, by a call that fails as it
// runs, its results. No C++ exception leaves the library.
//
// Memory. Every array and workspace is the caller's. A call allocates none, except that one with
// several CPU threads takes less than a kilobyte for each of them while it runs. Workspaces and
// arrays of floating-point numbers begin at a multiple of JP_ALIGNMENT bytes, as malloc's memory
// does. No result may overlap with another array.
//
// Threads. Devices and plans do not change once they are made: any number of threads may use them
// at once, each call with results and a workspace of its own. Only jp_*_destroy must be the last
// use of its object. A plan outlives its device's handle. A process that forks makes devices after
// that, not before.
//
// Versions. A program that was built against one version runs with every later one of the same
// JP_VERSION_MAJOR. Structs only grow at the end, and begin with their size: set struct_size to
// sizeof the struct and all that is not needed to zero, as an initialiser does:
//   jp_problem problem = {.struct_size = sizeof(jp_problem), .cell = "gru", ...};
// A library that is older than the program refuses fields that it does not know and that are not
// zero.
#ifndef JAX_PERSISTENT_H_
#define JAX_PERSISTENT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JP_VERSION_MAJOR 1
#define JP_VERSION_MINOR 1
#define JP_VERSION (JP_VERSION_MAJOR * 1000 + JP_VERSION_MINOR)

#define JP_ALIGNMENT 16
#define JP_MAX_STATES 4  // of a cell; room for cells to come: none has more than two
#define JP_MAX_RANK 8    // of an array

#if defined(__GNUC__)
#define JP_API __attribute__((visibility("default")))
#else
#define JP_API
#endif

#ifdef __cplusplus
#define JP_NOEXCEPT noexcept
extern "C" {
#else
#define JP_NOEXCEPT
#endif

// --- Errors and versions

typedef int32_t jp_status;
enum {
  JP_OK = 0,
  JP_INVALID_ARGUMENT = 1,  // the caller's mistake
  JP_UNSUPPORTED = 2,       // a possible problem that no kernel of this device computes
  JP_UNAVAILABLE = 3,       // the device is not there, or lacks what it needs, such as a driver
  JP_OUT_OF_MEMORY = 4,
  JP_FAILED = 5  // what was asked for went wrong: a kernel's compilation, a launch
};

// The last error of the calling thread, in words; "" if there has been none. Never NULL. Valid
// until the thread's next call that fails.
JP_API const char* jp_last_error(void) JP_NOEXCEPT;

// The name of a status: "JP_OK". Never NULL.
JP_API const char* jp_status_name(jp_status status) JP_NOEXCEPT;

// The JP_VERSION of the library that runs.
JP_API int32_t jp_version(void) JP_NOEXCEPT;

// --- Devices

typedef struct jp_device jp_device;

// Threads that the program lends to a CPU's calls, in place of the device's own. Since version 1.1.
//
// A call asks for up to jp_device_options.threads - 1 of them, and works on the caller's thread
// meanwhile. It never waits for a thread to come: one that is busy elsewhere only makes it slower,
// and one that comes after the call has returned finds nothing to do.
typedef struct jp_thread_pool {
  size_t struct_size;
  // Has run(task) called once, on any thread, before the library is unloaded: soon, if calls are to
  // be fast. Several threads may call it at once. It must not throw.
  void (*schedule)(void* user_data, void (*run)(void* task), void* task);
  void* user_data;  // given to schedule, as long as there are devices or plans
} jp_thread_pool;

typedef struct jp_device_options {
  size_t struct_size;
  const char* platform;  // "cpu" or "cuda"; NULL: "cpu"
  int32_t threads;       // cpu: that a call uses at most, the caller's among them; 0: one a core.
                         // JAX_PERSISTENT_THREADS in the environment limits them, too
  int32_t ordinal;       // cuda: the GPU, in the driver's numbering
  const jp_thread_pool* pool;  // cpu: whose threads; NULL: the device's own. It is copied
} jp_device_options;

// Makes a device. Of a CPU it has threads that sleep between calls, and on which calls at the same
// time take turns, unless it is lent some; a GPU's calls run in its primary context, as the CUDA
// runtime's do. `options` may be NULL: all cores of the CPU.
//
// A GPU needs its driver (libcuda.so.1, or the file that JAX_PERSISTENT_LIBCUDA names) and NVRTC
// 12.8 or later (libnvrtc.so, or JAX_PERSISTENT_LIBNVRTC), which compiles kernels; they are kept
// in ~/.cache/jax_persistent or the folder that JAX_PERSISTENT_CACHE_DIR names.
JP_API jp_status jp_device_create(const jp_device_options* options, jp_device** device) JP_NOEXCEPT;
JP_API void jp_device_destroy(jp_device* device) JP_NOEXCEPT;  // NULL is allowed

// --- Problems and plans

typedef int32_t jp_dtype;
enum { JP_FLOAT32 = 0, JP_BFLOAT16 = 1, JP_FLOAT16 = 2, JP_FLOAT64 = 3, JP_INT32 = 4, JP_BOOL = 5 };

typedef int32_t jp_directions;
enum {
  JP_DIRECTION_FORWARD = 0,
  JP_DIRECTION_REVERSE = 1,  // rows run from their last step to their first; outputs stay with x
  JP_DIRECTION_BOTH = 2      // a bidirectional layer: D = 2, the second in reverse
};

typedef int32_t jp_pass;
enum { JP_PASS_FORWARD = 0, JP_PASS_BACKWARD = 1 };

// The optional parts of a problem, in jp_problem.parts. A pass ignores those of the other alone.
enum {
  // Forward.
  JP_PART_INPUTS = 1 << 0,          // x and input_kernel are given: what a CPU needs
  JP_PART_INPUT_GATES = 1 << 1,     // x W + b is given in their place: what a GPU needs
  JP_PART_BIAS = 1 << 2,            // with INPUTS
  JP_PART_RECURRENT_BIAS = 1 << 3,  // gru
  // Both.
  JP_PART_LENGTHS = 1 << 4,      // else every row has all T steps
  JP_PART_RESETS = 1 << 5,       // else no row is reset
  JP_PART_RESET_STATE = 1 << 6,  // with RESETS; else a reset row starts from zeros
  JP_PART_RESIDUALS = 1 << 7,    // forward: to be stored for backward, which needs them; lstm, gru
  // Backward. A CPU gives all of these, a GPU the gates' gradients alone.
  JP_PART_D_X = 1 << 8,                // the gradient of x
  JP_PART_D_WEIGHTS = 1 << 9,          // those of both kernels
  JP_PART_D_BIAS = 1 << 10,            // with D_WEIGHTS
  JP_PART_D_RECURRENT_BIAS = 1 << 11,  // with D_WEIGHTS; gru
  JP_PART_D_GATES = 1 << 12,  // those of x W + b at every step, of which the others are sums
  JP_PART_D_RECURRENT_GATES = 1 << 13,  // gru, whose D_GATES come with these
  // Forward: steps of a longer sequence, with results that on a CPU do not depend on where it is
  // cut. The states of a 16-bit dtype are float32 then.
  JP_PART_CHUNKED = 1 << 14
};

// A recurrence without its arrays. The letters are those of the arrays' shapes below.
//
//   cell          G  states  residuals  equations
//   "lstm"        4  h, c    i f g o c  i, f, g, o = split(x W + b + h R)
//                                       c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c')
//   "gru"         3  h       r z n m    r, z = s(split(x W + b)[0:2] + split(h R + q)[0:2])
//                                       m = split(h R + q)[2], n = tanh(split(x W + b)[2] + r m)
//                                       h' = (1 - z) n + z h
//   "elman_tanh"  1  h       none       h' = tanh(x W + b + h R)
//   "elman_relu"  1  h       none       h' = max(x W + b + h R, 0)
//
// W is the input kernel, R the recurrent one, b the bias, q the recurrent bias, s the logistic
// function; h and c are the states before a step, h' and c' those after it. split cuts G*H columns
// into one part of H for each gate. Narrow types are added up, and c is kept, in float32.
typedef struct jp_problem {
  size_t struct_size;
  const char* cell;
  jp_dtype dtype;  // of all but lengths and resets: float32, bfloat16 or, on a GPU, float16
  jp_directions directions;  // D is 2 for JP_DIRECTION_BOTH, else 1
  int64_t layers;  // N: independent layers of one shape in one call, as of an ensemble; mostly 1
  int64_t batch;   // B, rows
  int64_t steps;   // T
  int64_t inputs;  // I, features of x; 0 where no array has them
  int64_t hidden;  // H
  uint32_t parts;  // JP_PART_* | ...
  int32_t time_major;  // not 0: sequences are [T,B,..] in place of [B,T,..]
  int32_t tf32;        // not 0: a GPU may round float32 products to tf32
  int32_t packed;      // not 0: the forward pass is given kernels that jp_pack has packed
} jp_problem;

typedef struct jp_plan jp_plan;

// Plans a pass of a problem; for a GPU compiles its kernel, which takes about a second the first
// time, and loads it. JP_UNSUPPORTED: the text says why the device does not compute it.
JP_API jp_status jp_plan_create(const jp_device* device, const jp_problem* problem, jp_pass pass,
                                jp_plan** plan) JP_NOEXCEPT;
JP_API void jp_plan_destroy(jp_plan* plan) JP_NOEXCEPT;  // NULL is allowed

// What a call needs besides its arrays; may be 0. A GPU's workspace is memory of that GPU.
JP_API jp_status jp_plan_workspace_bytes(const jp_plan* plan, size_t* bytes) JP_NOEXCEPT;

// The plan in words: where the weights stay, who computes what. Lives as long as the plan.
JP_API jp_status jp_plan_text(const jp_plan* plan, const char** text) JP_NOEXCEPT;

// One of the arrays that a plan's calls are given.
typedef struct jp_array_info {
  size_t struct_size;  // set by the caller
  const char* name;    // a field of the structs below, "initial_state[1]"; lives as the plan does
  int32_t is_result;   // 1: the call writes it. 0: the call reads it
  jp_dtype dtype;
  int32_t rank;
  int32_t reserved;
  int64_t sizes[JP_MAX_RANK];  // rows of C order: the last dimension's values are neighbours
  size_t bytes;
} jp_array_info;

JP_API jp_status jp_plan_array_count(const jp_plan* plan, size_t* count) JP_NOEXCEPT;
JP_API jp_status jp_plan_array(const jp_plan* plan, size_t index, jp_array_info* info) JP_NOEXCEPT;

// --- Calls

// Arrays are in C order and dense. Shapes are those of batch-major problems: with time_major, "B,T"
// is "T,B". Each is NULL if the problem has not the part that is named behind its shape.
//
//   lengths  0 to T; row b runs at the times t < lengths[b]. Beyond them outputs, residuals and
//            gradients are zero, and what x has there does not matter. The final state is the one
//            after the last step that the row runs; without any, the initial one.
//   resets   true where the row starts anew, if it runs then: the state before that step is
//            reset_state, or zeros. No gradient passes it. A byte each, 0 or 1.
//   states   [0] is h; of lstm, [1] is c. The others are NULL.

typedef struct jp_forward_arrays {
  size_t struct_size;
  const void* x;                             // [N,B,T,I]    INPUTS
  const void* input_kernel;                  // [N,D,I,G*H]  INPUTS; or what jp_pack made of it
  const void* bias;                          // [N,D,G*H]    BIAS
  const void* input_gates;                   // [N,B,T,D,G*H]  INPUT_GATES
  const void* recurrent_kernel;              // [N,D,H,G*H]; or what jp_pack made of it
  const void* recurrent_bias;                // [N,D,G*H]    RECURRENT_BIAS
  const int32_t* lengths;                    // [N,B]        LENGTHS
  const bool* resets;                        // [N,D,B,T]    RESETS
  const void* reset_state[JP_MAX_STATES];    // each [N,D,B,H]  RESET_STATE
  const void* initial_state[JP_MAX_STATES];  // each [N,D,B,H]
  // Results.
  void* outputs;                     // [N,B,T,D,H]: h after each step
  void* final_state[JP_MAX_STATES];  // each [N,D,B,H]
  void* residuals;                   // [N,B,T,D,R*H]  RESIDUALS; R is 5 of lstm, 4 of gru
} jp_forward_arrays;

typedef struct jp_backward_arrays {
  size_t struct_size;
  // As they were given to the forward pass. Kernels are not packed here.
  const void* x;                             // [N,B,T,I]    D_WEIGHTS
  const void* input_kernel;                  // [N,D,I,G*H]  D_X
  const void* recurrent_kernel;              // [N,D,H,G*H]
  const int32_t* lengths;                    // [N,B]        LENGTHS
  const bool* resets;                        // [N,D,B,T]    RESETS
  const void* reset_state[JP_MAX_STATES];    // each [N,D,B,H]  RESET_STATE
  const void* initial_state[JP_MAX_STATES];  // each [N,D,B,H]
  // As the forward pass wrote them.
  const void* outputs;    // [N,B,T,D,H]
  const void* residuals;  // [N,B,T,D,R*H]  RESIDUALS
  // The gradients of a loss with respect to the forward pass's results.
  const void* d_outputs;                     // [N,B,T,D,H]
  const void* d_final_state[JP_MAX_STATES];  // each [N,D,B,H]
  // Results: its gradients with respect to what the forward pass was given.
  void* d_x;                             // [N,B,T,I]      D_X
  void* d_input_kernel;                  // [N,D,I,G*H]    D_WEIGHTS
  void* d_bias;                          // [N,D,G*H]      D_BIAS
  void* d_recurrent_kernel;              // [N,D,H,G*H]    D_WEIGHTS
  void* d_recurrent_bias;                // [N,D,G*H]      D_RECURRENT_BIAS
  void* d_input_gates;                   // [N,B,T,D,G*H]  D_GATES
  void* d_recurrent_gates;               // [N,B,T,D,G*H]  D_RECURRENT_GATES
  void* d_reset_state[JP_MAX_STATES];    // each [N,D,B,H]  RESET_STATE
  void* d_initial_state[JP_MAX_STATES];  // each [N,D,B,H]
} jp_backward_arrays;

// Run a plan of that pass. On a CPU they return when the results are there. On a GPU they enqueue
// the call on `stream`, a CUstream or cudaStream_t of that device (NULL: its default stream), and
// return; arrays and workspace are then the GPU's until the stream has come past. Of a CPU's calls
// `stream` is NULL.
JP_API jp_status jp_forward(const jp_plan* plan, const jp_forward_arrays* arrays, void* workspace,
                            size_t workspace_bytes, void* stream) JP_NOEXCEPT;
JP_API jp_status jp_backward(const jp_plan* plan, const jp_backward_arrays* arrays, void* workspace,
                             size_t workspace_bytes, void* stream) JP_NOEXCEPT;

// --- Packed kernels

typedef int32_t jp_kernel;
enum { JP_INPUT_KERNEL = 0, JP_RECURRENT_KERNEL = 1 };

// Brings a kernel into the order in which a CPU's products read it, for calls of few steps, which
// would spend their time on that. `plan` is the forward pass's of a packed problem; `kernel` is
// [N,D,I or H,G*H], and `packed` has the bytes that jp_plan_array says of the array. What is packed
// serves problems of any batch and number of steps, on processors with vectors of the same width:
// it is made where it is used, and not saved.
JP_API jp_status jp_pack(const jp_plan* plan, jp_kernel which, const void* kernel,
                         size_t kernel_bytes, void* packed, size_t packed_bytes) JP_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif  // JAX_PERSISTENT_H_
