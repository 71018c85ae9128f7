// SPDX-License-Identifier: Apache-2.0
// The buffers of a custom call: each checked against what the problem says of it, then taken by
// name.
#pragma once

#include <string>
#include <vector>

#include "native/problem/operands.h"
#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

namespace xffi = ::xla::ffi;

// What a call's buffers must be.
class BufferTypes {
 public:
  explicit BufferTypes(const Problem& problem);

  bool Match(const xffi::RemainingArgs& operands, const xffi::RemainingRets& results) const;
  // Why they do not match.
  std::string Mismatch(const xffi::RemainingArgs& operands,
                       const xffi::RemainingRets& results) const;

 private:
  struct BufferType {
    std::string name;
    xffi::DataType type;
    std::vector<int64_t> sizes;
  };
  std::vector<BufferType> operands_, results_;
};

// The problem with the sizes that it does not know taken from buffers that have them, where those
// have the right number of dimensions.
Problem WithSizesOf(Problem problem, const xffi::RemainingArgs& operands,
                    const xffi::RemainingRets& results);

// The pointers to buffers that match the problem's types.
template <class Arrays>
Arrays TakeArrays(const Problem& problem, const xffi::RemainingArgs& operands,
                  const xffi::RemainingRets& results);

}  // namespace jp::ffi
