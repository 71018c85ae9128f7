// SPDX-License-Identifier: Apache-2.0
// Registers, constants, addresses: each a column.
#include "tests/cuda/software_gpu/operands.h"

#include <stdexcept>

#include "tests/cuda/software_gpu/statements.h"

namespace jp::software_gpu {

Type TypeOf(const std::string& name) {
  static const std::map<std::string, Type> types = {
      {"pred", Type::kPred}, {"b8", Type::kB8},   {"u8", Type::kB8},   {"s8", Type::kS8},
      {"b16", Type::kB16},   {"u16", Type::kB16}, {"s16", Type::kS16}, {"b32", Type::kB32},
      {"u32", Type::kB32},   {"s32", Type::kS32}, {"f32", Type::kF32}, {"b64", Type::kB64},
      {"u64", Type::kB64},   {"s64", Type::kS64}, {"f64", Type::kB64}};
  const auto found = types.find(name);
  if (found == types.end()) throw std::invalid_argument("type " + name);
  return found->second;
}

void Operands::Declare(const std::string& statement) {
  const Words words = Split(statement, ' ');
  if (words.size() != 3) throw std::invalid_argument("declaration");
  const std::string type = words[1].substr(1), &name = words[2];
  const bool wide = type == "b64" || type == "u64" || type == "s64" || type == "f64";
  const auto open = name.find('<');
  if (open == std::string::npos) {
    Add(name, wide);
    return;
  }
  const int count = std::stoi(name.substr(open + 1));
  for (int i = 0; i < count; ++i) {
    Add(name.substr(0, open) + std::to_string(i), wide);
  }
}

void Operands::DeclareParameter(const std::string& statement) {
  call_parameters_[Split(statement, ' ').back()] = New64();
}

void Operands::DeclareLocal(const std::string& statement) {
  const std::string name = Split(statement, ' ').back();
  const size_t open = name.find('[');
  locals_[name.substr(0, open)] = kernel_.local_bytes;
  kernel_.local_bytes += (std::stoul(name.substr(open + 1)) + 15) / 16 * 16;
}

void Operands::Add(const std::string& name, bool wide) {
  registers_[name] = wide ? New64() : New32();
  if (wide) wide_.insert(name);
}

uint32_t Operands::Constant32(uint32_t value) {
  const auto [at, is_new] = constants32_.try_emplace(value, 0);
  if (is_new) {
    at->second = New32();
    kernel_.constants32.emplace_back(at->second, value);
  }
  return at->second;
}
uint32_t Operands::Constant64(uint64_t value) {
  const auto [at, is_new] = constants64_.try_emplace(value, 0);
  if (is_new) {
    at->second = New64();
    kernel_.constants64.emplace_back(at->second, value);
  }
  return at->second;
}
uint32_t Operands::Special(uint32_t& column) {
  if (column == kNone) column = New32();
  return column;
}

uint32_t Operands::Column(const std::string& operand, Type type) {
  const auto found = registers_.find(operand);
  if (found != registers_.end()) return found->second;
  if (operand == "%tid.x") return Special(kernel_.tid);
  if (operand == "%ctaid.x") return Special(kernel_.ctaid);
  if (operand == "%ntid.x") return Special(kernel_.ntid);
  if (operand == "%nctaid.x") return Special(kernel_.nctaid);
  if (operand == "%laneid") return Special(kernel_.laneid);
  if (const auto global = names_.globals.find(operand); global != names_.globals.end()) {
    return Constant64(global->second);
  }
  if (const auto local = locals_.find(operand); local != locals_.end()) {
    return Constant64(local->second);
  }
  if (operand == parameters_) {
    if (kernel_.parameters == kNone) kernel_.parameters = New64();
    return kernel_.parameters;
  }
  if (names_.shared.contains(operand)) return IsWide(type) ? Constant64(0) : Constant32(0);
  if (operand.starts_with("0f") || operand.starts_with("0F")) {
    return Constant32(static_cast<uint32_t>(std::stoul(operand.substr(2), nullptr, 16)));
  }
  if (operand.starts_with("0d") || operand.starts_with("0D")) {
    return Constant64(std::stoull(operand.substr(2), nullptr, 16));
  }
  try {
    size_t used = 0;
    const uint64_t value = operand[0] == '-' ? static_cast<uint64_t>(std::stoll(operand, &used, 0))
                                             : std::stoull(operand, &used, 0);
    if (used == operand.size() || operand.substr(used) == "U") {
      if (type == Type::kPred) return Constant32(value != 0);
      return IsWide(type) ? Constant64(value) : Constant32(static_cast<uint32_t>(value));
    }
  } catch (const std::logic_error&) {  // not a number
  }
  throw std::invalid_argument("operand " + operand);
}

uint32_t Operands::Address(const std::string& operand, int64_t& offset, bool& wide) {
  if (operand.size() < 3 || operand[0] != '[') throw std::invalid_argument("address " + operand);
  std::string base = operand.substr(1, operand.size() - 2);
  offset = 0;
  if (const auto plus = base.find('+'); plus != std::string::npos) {
    offset = std::stoll(base.substr(plus + 1));
    base = base.substr(0, plus);
  }
  wide = wide_.contains(base) || names_.globals.contains(base) || locals_.contains(base) ||
         base == parameters_;
  return Column(base, wide ? Type::kB64 : Type::kB32);
}

}  // namespace jp::software_gpu
