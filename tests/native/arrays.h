// A call's arrays: in double for the reference, and as guarded buffers for the kernels.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "native/cpu/job.h"
#include "tests/native/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(data, bytes) ((void)(data), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(data, bytes) ((void)(data), (void)(bytes))
#endif

namespace jp::test {

#if defined(__aarch64__)  // where GCC has _Float16 in C++ from version 13 on
using Half = __fp16;
#else
using Half = _Float16;
#endif

// The nearest value that `type` can hold.
inline double RoundedTo(cpu::DType type, double value) {
  const float single = static_cast<float>(value);
  if (type == cpu::DType::kFloat32) return single;
  if (type == cpu::DType::kFloat16) return static_cast<Half>(single);
  uint32_t bits = std::bit_cast<uint32_t>(single);
  bits += 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xffff0000);
}

// Every array of a forward and a backward call. Arrays that a cell has not are empty.
struct Arrays {
  cpu::DType dtype;
  std::vector<int32_t> lengths;
  std::vector<double> x, input_kernel, bias;  // of which gates_x is made, if there are inputs
  std::vector<double> gates_x, kernel, recurrent_bias, initial[2];
  std::vector<double> outputs, saved, final[2];
  std::vector<double> d_outputs, d_final[2];
  std::vector<double> d_x, d_gates_x, d_product, d_initial[2];
  std::vector<double> d_input_kernel, d_bias, d_kernel, d_recurrent_bias;

  double Rounded(double value) const { return RoundedTo(dtype, value); }
};

// What the inputs come to, x W + b, in the order of the rows of x.
inline std::vector<double> Projected(const cpu::Shape& s, const CellTraits& cell, const Arrays& a) {
  const int64_t rows = s.batch * s.steps, columns = cell.gates * s.hidden;
  std::vector<double> projected(s.groups * rows * columns);
  for (int64_t row = 0; row < s.groups * rows; ++row) {
    const int64_t group = row / rows;
    for (int64_t column = 0; column < columns; ++column) {
      double sum = a.bias[group * columns + column];
      for (int64_t i = 0; i < s.inputs; ++i) {
        sum += a.x[row * s.inputs + i] * a.input_kernel[(group * s.inputs + i) * columns + column];
      }
      projected[row * columns + column] = sum;
    }
  }
  return projected;
}

// Random inputs that `dtype` can hold, and results of the right sizes, all zero.
inline Arrays MakeArrays(const cpu::Shape& s, const CellTraits& cell, cpu::DType dtype, int seed) {
  std::mt19937 random(seed);
  const auto normal = [&](int64_t size, double scale) {
    std::normal_distribution<double> values(0, scale);
    std::vector<double> array(size);
    for (double& value : array) value = RoundedTo(dtype, values(random));
    return array;
  };
  const int64_t rows = s.groups * s.batch * s.steps, states = s.groups * s.batch * s.hidden;
  const int64_t columns = cell.gates * s.hidden;
  Arrays a{};
  a.dtype = dtype;
  // Lengths from 0 to T, both of them present where there are rows enough.
  for (int64_t i = 0; i < s.groups * s.batch; ++i) {
    const int length = i == 1 ? 0 : static_cast<int>(random() % (s.steps + 1));
    a.lengths.push_back(i == 0 ? static_cast<int32_t>(s.steps) : length);
  }
  if (s.inputs > 0) {
    a.x = normal(rows * s.inputs, 1);
    a.input_kernel = normal(s.groups * s.inputs * columns, 0.7 / std::sqrt(s.inputs));
    a.bias = normal(s.groups * columns, 0.4);
    a.gates_x = Projected(s, cell, a);
    a.d_x.resize(rows * s.inputs);
    a.d_input_kernel.resize(a.input_kernel.size());
    a.d_bias.resize(a.bias.size());
    a.d_kernel.resize(s.groups * s.hidden * columns);
    if (cell.separate_product) a.d_recurrent_bias.resize(s.groups * columns);
  } else {
    a.gates_x = normal(rows * columns, 0.8);
  }
  a.kernel = normal(s.groups * s.hidden * columns, 0.9 / std::sqrt(s.hidden));
  if (cell.separate_product) a.recurrent_bias = normal(s.groups * columns, 0.3);
  a.d_outputs = normal(rows * s.hidden, 1);
  a.outputs.resize(rows * s.hidden);
  a.saved.resize(rows * cell.saved * s.hidden);
  a.d_gates_x.resize(rows * columns);
  if (cell.separate_product) a.d_product.resize(rows * columns);
  for (int i = 0; i < cell.states; ++i) {
    a.initial[i] = normal(states, 0.5);
    a.d_final[i] = normal(states, 1);
    a.final[i].resize(states);
    a.d_initial[i].resize(states);
  }
  return a;
}

// An array as a kernel sees it, between guard bytes that nothing may touch: AddressSanitizer stops
// a read or a write there, and `Intact` sees a write without it. Filled with NaN unless from
// values.
class Buffer {
 public:
  Buffer(cpu::DType dtype, size_t size)
      : dtype_(dtype),
        size_(size),
        bytes_(size * cpu::ByteWidth(dtype)),
        memory_(bytes_ + 2 * kGuard) {
    std::memset(memory_.data(), kFill, memory_.size());
    std::memset(memory_.data() + kGuard, 0xff, bytes_);
    ASAN_POISON_MEMORY_REGION(memory_.data(), kGuard);
    ASAN_POISON_MEMORY_REGION(memory_.data() + kGuard + bytes_, kGuard);
  }
  Buffer(cpu::DType dtype, const std::vector<double>& values) : Buffer(dtype, values.size()) {
    for (size_t i = 0; i < size_; ++i) {
      const uint32_t bits = ToBits(static_cast<float>(values[i]));
      std::memcpy(data() + i * width(), &bits, width());  // little-endian: the low half comes first
    }
  }
  ~Buffer() { Unpoison(); }
  Buffer(const Buffer&) = delete;

  // Null for an array that a cell has not.
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

  size_t width() const { return cpu::ByteWidth(dtype_); }
  uint32_t ToBits(float value) const {
    if (dtype_ == cpu::DType::kFloat16) return std::bit_cast<uint16_t>(static_cast<Half>(value));
    const auto bits = std::bit_cast<uint32_t>(value);
    return dtype_ == cpu::DType::kBfloat16 ? bits >> 16 : bits;
  }
  float FromBits(uint32_t bits) const {
    if (dtype_ == cpu::DType::kFloat16) return std::bit_cast<Half>(static_cast<uint16_t>(bits));
    return std::bit_cast<float>(dtype_ == cpu::DType::kBfloat16 ? bits << 16 : bits);
  }
  void Unpoison() { ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size()); }

  cpu::DType dtype_;
  size_t size_, bytes_;
  std::vector<uint8_t> memory_;
};

}  // namespace jp::test
