// SPDX-License-Identifier: Apache-2.0
// The buffers of a custom call: each checked against what the problem says of it, then taken by
// name.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "native/problem/operands.h"
#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

namespace xffi = ::xla::ffi;

// What a call's buffers must be: the problem's arrays and, where a workspace's bytes are given,
// that many or more behind the last result.
class BufferTypes {
 public:
  explicit BufferTypes(const Problem& problem,
                       std::optional<int64_t> workspace_bytes = std::nullopt);

  bool Match(const xffi::RemainingArgs& operands, const xffi::RemainingRets& results) const;
  // Why they do not match.
  std::string Mismatch(const xffi::RemainingArgs& operands,
                       const xffi::RemainingRets& results) const;

 private:
  struct BufferType {
    std::string name;
    xffi::DataType type;
    std::vector<int64_t> sizes;
    bool or_more = false;  // the size, of one dimension, is the least
  };
  std::vector<BufferType> operands_, results_;
};

// The problem with the sizes that it does not know taken from buffers that have them, where those
// have the right number of dimensions.
Problem WithSizesOf(Problem problem, const xffi::RemainingArgs& operands,
                    const xffi::RemainingRets& results);

// The workspace, the last result.
void* TakeWorkspace(const xffi::RemainingRets& results);

// The pointers to buffers that match the problem's types.
template <class Arrays>
Arrays TakeArrays(const Problem& problem, const xffi::RemainingArgs& operands,
                  const xffi::RemainingRets& results);

}  // namespace jp::ffi
