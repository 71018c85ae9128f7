// SPDX-License-Identifier: Apache-2.0
// Which column an operand of an instruction is.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "tests/cuda/software_gpu/ptx.h"

namespace jp::software_gpu {

// Of ".u32" and the like; throws std::invalid_argument.
Type TypeOf(const std::string& name);
inline bool IsWide(Type type) { return BytesOf(type) == 8; }

// What a module has outside of its kernels.
struct Names {
  std::map<std::string, uint64_t> globals;  // and their addresses
  std::set<std::string> shared;
};

// Of one kernel, whose columns are made here. What is not known is a std::invalid_argument.
class Operands {
 public:
  // `parameters`: the name of the kernel's own.
  Operands(Kernel& kernel, std::string parameters, const Names& names)
      : kernel_(kernel), parameters_(std::move(parameters)), names_(names) {}

  // .reg .b32 %r<12>
  void Declare(const std::string& statement);
  // .param .b64 name: of a call.
  void DeclareParameter(const std::string& statement);

  // .local .align 4 .b8 name[28]
  void DeclareLocal(const std::string& statement);

  // The column of an operand that is read as `type`.
  uint32_t Column(const std::string& operand, Type type);
  // [base+offset]: the column of the base, of 64 bits or, in shared memory, of its register's
  // width. `wide` says which.
  uint32_t Address(const std::string& operand, int64_t& offset, bool& wide);
  uint32_t CallParameter(const std::string& name) const { return call_parameters_.at(name); }
  // Is it a register of 64 bits?
  bool IsWideRegister(const std::string& name) const { return wide_.contains(name); }

 private:
  void Add(const std::string& name, bool wide);
  uint32_t New32() { return kernel_.columns32++; }
  uint32_t New64() { return kernel_.columns64++; }
  uint32_t Constant32(uint32_t value);
  uint32_t Constant64(uint64_t value);
  uint32_t Special(uint32_t& column);

  Kernel& kernel_;
  const std::string parameters_;
  const Names& names_;
  std::map<std::string, uint32_t> registers_, call_parameters_;
  std::map<std::string, uint64_t> locals_;  // where each begins in a lane's local memory
  std::set<std::string> wide_;
  std::map<uint32_t, uint32_t> constants32_;
  std::map<uint64_t, uint32_t> constants64_;
};

}  // namespace jp::software_gpu
