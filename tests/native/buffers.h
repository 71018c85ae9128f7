// SPDX-License-Identifier: Apache-2.0
// Arrays as kernels see them: guarded buffers, and the pointers that a problem's passes are given.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "native/problem/arrays.h"
#include "tests/native/arrays.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(data, bytes) ((void)(data), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(data, bytes) ((void)(data), (void)(bytes))
#endif

namespace jp::test {

// An array as a kernel sees it, between guard bytes that nothing may touch: AddressSanitizer stops
// a read or a write there, and `Intact` sees a write without it. Filled with NaN unless from
// values.
class Buffer {
 public:
  Buffer(DType dtype, size_t size)
      : dtype_(dtype), size_(size), bytes_(size * ByteWidth(dtype)), memory_(bytes_ + 2 * kGuard) {
    std::memset(memory_.data(), kFill, memory_.size());
    std::memset(memory_.data() + kGuard, 0xff, bytes_);
    ASAN_POISON_MEMORY_REGION(memory_.data(), kGuard);
    ASAN_POISON_MEMORY_REGION(memory_.data() + kGuard + bytes_, kGuard);
  }
  Buffer(DType dtype, const std::vector<double>& values) : Buffer(dtype, values.size()) {
    for (size_t i = 0; i < size_; ++i) {
      const uint32_t bits = ToBits(static_cast<float>(values[i]));
      std::memcpy(data() + i * width(), &bits, width());  // little-endian: the low half comes first
    }
  }
  ~Buffer() { Unpoison(); }
  Buffer(const Buffer&) = delete;

  // Null for an array of no values.
  uint8_t* data() { return size_ == 0 ? nullptr : memory_.data() + kGuard; }
  size_t bytes() const { return bytes_; }

  std::vector<double> values() const {
    std::vector<double> values(size_);
    for (size_t i = 0; i < size_; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, memory_.data() + kGuard + i * width(), width());
      values[i] = FromBits(bits);
    }
    return values;
  }

  bool Intact() {
    Unpoison();
    bool intact = true;
    for (size_t i = 0; i < kGuard; ++i) {
      intact &= memory_[i] == kFill && memory_[kGuard + bytes_ + i] == kFill;
    }
    return intact;
  }

  bool SameBytes(const Buffer& other) const {
    return bytes_ == other.bytes_ &&
           std::memcmp(memory_.data() + kGuard, other.memory_.data() + kGuard, bytes_) == 0;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr uint8_t kFill = 0xa5;

  size_t width() const { return dtype_ == DType::kFloat32 ? 4 : 2; }
  uint32_t ToBits(float value) const {
    if (dtype_ == DType::kFloat16) return std::bit_cast<uint16_t>(static_cast<Half>(value));
    const auto bits = std::bit_cast<uint32_t>(value);
    return dtype_ == DType::kBfloat16 ? bits >> 16 : bits;
  }
  float FromBits(uint32_t bits) const {
    if (dtype_ == DType::kFloat16) return std::bit_cast<Half>(static_cast<uint16_t>(bits));
    return std::bit_cast<float>(dtype_ == DType::kBfloat16 ? bits << 16 : bits);
  }
  void Unpoison() { ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size()); }

  DType dtype_;
  size_t size_, bytes_;
  std::vector<uint8_t> memory_;
};

// The buffers of a forward and a backward call on one set of arrays, under the names of
// operands.def. Those of `lengths` and `resets` are the arrays' own.
struct Buffers {
  using PerState = std::unique_ptr<Buffer>[kMostStates];

  explicit Buffers(const Arrays& a)
      : lengths(a.lengths.data()),
        resets(reinterpret_cast<const bool*>(a.resets.data())),
        x(a.dtype, a.x),
        input_kernel(a.dtype, a.input_kernel),
        bias(a.dtype, a.bias),
        input_gates(a.dtype, a.input_gates),
        recurrent_kernel(a.dtype, a.recurrent_kernel),
        recurrent_bias(a.dtype, a.recurrent_bias),
        outputs(a.dtype, a.outputs.size()),
        residuals(a.dtype, a.residuals.size()),
        d_outputs(a.dtype, a.d_outputs),
        d_x(a.dtype, a.d_x.size()),
        d_input_gates(a.dtype, a.d_input_gates.size()),
        d_recurrent_gates(a.dtype, a.d_recurrent_gates.size()),
        d_input_kernel(a.dtype, a.d_input_kernel.size()),
        d_bias(a.dtype, a.d_bias.size()),
        d_recurrent_kernel(a.dtype, a.d_recurrent_kernel.size()),
        d_recurrent_bias(a.dtype, a.d_recurrent_bias.size()) {
    for (int s = 0; s < kMostStates; ++s) {
      initial_state[s] = std::make_unique<Buffer>(a.dtype, a.initial_state[s]);
      reset_state[s] = std::make_unique<Buffer>(a.dtype, a.reset_state[s]);
      final_state[s] = std::make_unique<Buffer>(a.dtype, a.final_state[s].size());
      d_final_state[s] = std::make_unique<Buffer>(a.dtype, a.d_final_state[s]);
      d_initial_state[s] = std::make_unique<Buffer>(a.dtype, a.d_initial_state[s].size());
      d_reset_state[s] = std::make_unique<Buffer>(a.dtype, a.d_reset_state[s].size());
    }
  }

  // What the problem's parts name; the rest is null.
  Forward forward(const Problem& p) {
    Forward arrays{};
#define JP_PART(part)
#define JP_OPERAND(pass, name, type, count, dimensions, part) JP_TAKE_##pass(name, part)
#define JP_RESULT(pass, name, type, count, dimensions, part) JP_TAKE_##pass(name, part)
#define JP_TAKE_forward(name, part) \
  if (p.has(Part::part)) Set(arrays.name, name);
#define JP_TAKE_tangent(name, part)
#define JP_TAKE_backward(name, part)
#include "jax_persistent/problem/operands.def"
    return arrays;
  }

  Backward backward(const Problem& p) {
    Backward arrays{};
#undef JP_TAKE_forward
#undef JP_TAKE_backward
#define JP_TAKE_forward(name, part)
#define JP_TAKE_backward(name, part) \
  if (p.has(Part::part)) Set(arrays.name, name);
#include "jax_persistent/problem/operands.def"
#undef JP_PART
#undef JP_OPERAND
#undef JP_RESULT
#undef JP_TAKE_forward
#undef JP_TAKE_tangent
#undef JP_TAKE_backward
    return arrays;
  }

  std::vector<Buffer*> all() {
    std::vector<Buffer*> list = {&x,
                                 &input_kernel,
                                 &bias,
                                 &input_gates,
                                 &recurrent_kernel,
                                 &recurrent_bias,
                                 &outputs,
                                 &residuals,
                                 &d_outputs,
                                 &d_x,
                                 &d_input_gates,
                                 &d_recurrent_gates,
                                 &d_input_kernel,
                                 &d_bias,
                                 &d_recurrent_kernel,
                                 &d_recurrent_bias};
    for (auto* states : {&initial_state, &reset_state, &final_state, &d_final_state,
                         &d_initial_state, &d_reset_state}) {
      for (auto& buffer : *states) list.push_back(buffer.get());
    }
    return list;
  }

  const int32_t* lengths;
  const bool* resets;
  Buffer x, input_kernel, bias, input_gates, recurrent_kernel, recurrent_bias;
  Buffer outputs, residuals, d_outputs, d_x, d_input_gates, d_recurrent_gates;
  Buffer d_input_kernel, d_bias, d_recurrent_kernel, d_recurrent_bias;
  PerState initial_state, reset_state, final_state;
  PerState d_final_state, d_initial_state, d_reset_state;

 private:
  template <class Pointer>
  static void Set(Pointer& pointer, Buffer& buffer) {
    pointer = buffer.data();
  }
  template <class Pointer>
  static void Set(Pointer (&pointers)[kMostStates], PerState& buffers) {
    for (int s = 0; s < kMostStates; ++s) pointers[s] = buffers[s]->data();
  }
  template <class Pointer>
  static void Set(Pointer (&pointers)[kMostWeightArrays], Buffer& buffer) {
    pointers[0] = buffer.data();
  }
  static void Set(const int32_t*& pointer, const int32_t* values) { pointer = values; }
  static void Set(const bool*& pointer, const bool* values) { pointer = values; }
};

}  // namespace jp::test
