// SPDX-License-Identifier: Apache-2.0
// Where a (unit, row) pair of a program is in its arrays.
#pragma once

#include "cuda/program_arrays.h"
#include "cuda/program_math.h"

namespace jp::cuda {

// Booleans as programs compute with them: 1 and 0.
struct Bool {
  using Bits = uint8_t;
  JP_DEVICE static float ToFloat(Bits bits) { return Truth(bits != 0); }
  JP_DEVICE static Bits FromFloat(float value) { return value != 0.0f ? 1 : 0; }
};

// One pair at one time. Arrays are [groups?, rows?, features], sequences have steps before that.
struct ProgramPlace {
  const LaunchArgs<ProgramArrays>& args;
  int group, b, unit, time;
  bool exists;
  // To fetch what a later step reads into L2: the steps until then, 0 for none, and the lane among
  // the eight that read of one row.
  int ahead, lane;

  template <int kLayout>
  JP_DEVICE int64_t Row(int64_t at) const {
    if constexpr ((kLayout & kHasGroups) != 0) at = at * args.arrays.groups + group;
    if constexpr ((kLayout & kHasRows) != 0) at = at * args.rows.batch + b;
    return at;
  }

  // Feature `offset` of a row, or that of the unit; 0 where there is no such pair.
  template <class Type, int kLayout>
  JP_DEVICE typename Type::Bits Load(int operand, int64_t features, int64_t offset) const {
    return At<Type>(operand, Row<kLayout>(0) * features + offset);
  }
  // Of a sequence; `number` counts what a step loads.
  template <class Type, int kLayout>
  JP_DEVICE typename Type::Bits LoadStep(int operand, int64_t features, int64_t offset,
                                         int number) const {
    if (exists && ahead != 0 && lane == number % 8) {
      arch::Prefetch(Array<Type>(operand) + Row<kLayout>(time + ahead) * features + offset);
    }
    return At<Type>(operand, Row<kLayout>(time) * features + offset);
  }

  // Of results, which have all axes of rows.
  template <class Type>
  JP_DEVICE void Store(int result, int64_t features, int64_t offset, float value) const {
    Put<Type>(result, Row<kHasGroups | kHasRows>(0) * features + offset, value);
  }
  template <class Type>
  JP_DEVICE void StoreStep(int result, int64_t features, int64_t offset, float value) const {
    Put<Type>(result, Row<kHasGroups | kHasRows>(time) * features + offset, value);
  }

 private:
  template <class Type>
  JP_DEVICE const typename Type::Bits* Array(int operand) const {
    return static_cast<const typename Type::Bits*>(args.arrays.operands[operand]);
  }
  template <class Type>
  JP_DEVICE typename Type::Bits At(int operand, int64_t index) const {
    return exists ? Array<Type>(operand)[index] : typename Type::Bits{};
  }
  template <class Type>
  JP_DEVICE void Put(int result, int64_t index, float value) const {
    using Bits = typename Type::Bits;
    if (exists) static_cast<Bits*>(args.arrays.results[result])[index] = Type::FromFloat(value);
  }
};

}  // namespace jp::cuda
