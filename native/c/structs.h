// SPDX-License-Identifier: Apache-2.0
// The interface's structs, which a program of another version may have filled in, as what backends
// read. All of these throw std::invalid_argument, which says what was expected and what came.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "native/c/errors.h"
#include "native/c/jax_persistent.h"
#include "native/problem/arrays.h"
#include "native/problem/operands.h"
#include "native/problem/problem.h"

namespace jp::c {

// Of a struct in the first version that has it.
template <class Struct>
constexpr size_t kFirstBytes = sizeof(Struct);
template <>
inline constexpr size_t kFirstBytes<jp_device_options> = offsetof(jp_device_options, pool);

// Throws unless a struct that begins with its size can be read as one of `known` bytes: it has all
// that the `first` version had and, of what is behind `known`, zeros.
void CheckVersion(const void* given, const char* name, size_t first, size_t known);

// A caller's struct, with zeros for what it does not have.
template <class Struct>
Struct Versioned(const Struct* given, const char* name) {
  CheckNotNull(given, name);
  CheckVersion(given, name, kFirstBytes<Struct>, sizeof(Struct));
  Struct known{};
  std::memcpy(&known, given, std::min(given->struct_size, sizeof(Struct)));
  return known;
}

// `packed_lanes` is that of packed problems on the device.
Problem ProblemOf(const jp_problem& given, jp_pass pass, int64_t packed_lanes);

// The pointers of a call; each that the problem has is there, and no other.
Forward ArraysOf(const Problem& problem, const jp_forward_arrays& given);
Backward ArraysOf(const Problem& problem, const jp_backward_arrays& given);

// Throws unless `address` is a multiple of `alignment`.
void CheckAlignment(const void* address, size_t alignment, const char* name);

jp_dtype DTypeOf(OperandType type, DType element);
size_t BytesOf(const ArrayType& array, DType element);

}  // namespace jp::c
