// Operands and results of the targets, by name, each checked against the shape it must have.
//
// Nothing is trusted: whoever calls a target directly with the wrong buffers gets an error that
// says which, what was expected, and what came.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jp::ffi {

namespace xffi = ::xla::ffi;

// Takes buffers in order and remembers the first thing that is wrong with any of them.
class Decoder {
 public:
  Decoder(std::string target, xffi::RemainingArgs operands, xffi::RemainingRets results)
      : target_(std::move(target)), operands_(operands), results_(results) {}

  // The next operand or result, of this type and these sizes. Null once something was wrong.
  const void* Operand(const char* name, xffi::DataType type, const std::vector<int64_t>& sizes);
  void* Result(const char* name, xffi::DataType type, const std::vector<int64_t>& sizes);

  // Type and sizes of operand `index`, which has this rank: the others' sizes come from it. Takes
  // nothing; empty sizes once something was wrong.
  struct Type {
    xffi::DataType element = xffi::DataType::INVALID;
    std::vector<int64_t> sizes;
  };
  Type Peek(size_t index, const char* name, size_t rank);

  // To be called after the last buffer: are there more?
  void Finish();

  void Fail(const std::string& message);
  bool ok() const { return message_.empty(); }
  xffi::Error error() const { return {xffi::ErrorCode::kInvalidArgument, message_}; }

 private:
  bool Matches(const char* name, const xffi::AnyBuffer& buffer, xffi::DataType type,
               const std::vector<int64_t>& sizes);

  std::string target_;
  xffi::RemainingArgs operands_;
  xffi::RemainingRets results_;
  size_t next_operand_ = 0;
  size_t next_result_ = 0;
  std::string message_;
};

}  // namespace jp::ffi
