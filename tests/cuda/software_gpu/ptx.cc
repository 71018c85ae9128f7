// SPDX-License-Identifier: Apache-2.0
// A module: its variables, and its kernels, statement by statement.
#include "tests/cuda/software_gpu/ptx.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "tests/cuda/software_gpu/decode.h"
#include "tests/cuda/software_gpu/operands.h"
#include "tests/cuda/software_gpu/statements.h"

namespace jp::software_gpu {
namespace {

void ParseKernel(const std::string& body, uint32_t line, const std::string& parameters,
                 const Names& names, Kernel& kernel) {
  Operands operands(kernel, parameters, names);
  std::map<std::string, uint32_t> labels;
  std::vector<std::string> targets;  // of each instruction; of a branch, its label
  const auto parse = [&](const std::string& text) {
    if (text.back() == ':') {
      labels[text.substr(0, text.size() - 1)] = static_cast<uint32_t>(kernel.code.size());
    } else if (text.starts_with(".reg")) {
      operands.Declare(text);
    } else if (text.starts_with(".param")) {
      operands.DeclareParameter(text);
    } else if (text.starts_with(".local")) {
      operands.DeclareLocal(text);
    } else if (!text.starts_with(".pragma") && !text.starts_with(".loc")) {
      Decoded decoded = Decode(text, operands);
      decoded.instruction.line = line;
      kernel.code.push_back(decoded.instruction);
      targets.push_back(std::move(decoded.label));
    }
  };
  for (const Statement& statement : StatementsOf(body, line)) {
    line = statement.line;
    if (statement.text.empty() || statement.text == "{" || statement.text == "}") continue;
    try {
      parse(statement.text);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("PTX line " + std::to_string(line) + ": " + error.what() + ": " +
                                  statement.text);
    }
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i].empty()) continue;
    const auto found = labels.find(targets[i]);
    if (found == labels.end()) throw std::invalid_argument("PTX: no label " + targets[i]);
    kernel.code[i].target = found->second;
  }
  Instruction end;
  end.op = Op::kRet;
  end.line = line;
  kernel.code.push_back(end);
}

// .global .align 8 .u64 name[2] = {generic(other), 3}
void ParseGlobal(const std::string& text, Module& module, std::map<std::string, uint64_t>& known) {
  const auto equals = text.find('=');
  const Words words = Split(text.substr(0, equals), ' ');
  std::string name = words.back();
  size_t count = 1;
  if (const auto open = name.find('['); open != std::string::npos) {
    count = std::stoul(name.substr(open + 1));
    name = name.substr(0, open);
  }
  size_t width = 0, align = 16;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == ".align") align = std::max(align, std::stoul(words[i + 1]));
    for (const auto& [suffix, bytes] : {std::pair{"8", 1}, {"16", 2}, {"32", 4}, {"64", 8}}) {
      for (const char* kind : {".b", ".u", ".s", ".f"}) {
        if (words[i] == std::string(kind) + suffix) width = bytes;
      }
    }
  }
  if (width == 0) throw std::invalid_argument("PTX: " + text);
  auto memory = std::make_unique<unsigned char[]>(width * count + align);
  unsigned char* begin = memory.get();
  begin += (align - reinterpret_cast<uintptr_t>(begin) % align) % align;
  if (equals != std::string::npos) {
    std::string values = text.substr(text.find_first_not_of(' ', equals + 1));
    if (values[0] == '{') values = values.substr(1, values.rfind('}') - 1);
    size_t i = 0;
    for (const std::string& value : Split(values, ',')) {
      const uint64_t bits = value.starts_with("generic(")
                                ? known.at(value.substr(8, value.size() - 9))
                            : value[0] == '-' ? static_cast<uint64_t>(std::stoll(value, nullptr, 0))
                                              : std::stoull(value, nullptr, 0);
      std::memcpy(begin + i++ * width, &bits, width);
    }
  }
  known[name] = reinterpret_cast<uint64_t>(begin);
  module.globals.emplace_back(std::move(memory), width * count + align);
}

}  // namespace

Module ParsePtx(const std::string& text) {
  Module module;
  Names names;
  size_t at = 0;
  // What stands outside of functions ends with a semicolon at the end of a line, or is an entry.
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    const size_t next = end + 1;
    if (line.starts_with(".target ")) {
      module.target = line.substr(8, line.find_first_of(", \r", 8) - 8);
    } else if (line.find(".shared ") != std::string::npos && line[0] == '.') {
      std::string name = Split(line.substr(0, line.find(';')), ' ').back();
      names.shared.insert(name.substr(0, name.find('[')));
    } else if (line.starts_with(".global ") || line.starts_with(".visible .global ") ||
               line.starts_with(".weak .global ")) {
      ParseGlobal(line.substr(0, line.rfind(';')), module, names.globals);
    } else if (line.find(".entry ") != std::string::npos && line[0] == '.') {
      const size_t open = text.find('(', at), body = text.find('{', open);
      Kernel kernel;
      const size_t first = text.find(".entry ", at) + 7;
      kernel.name = text.substr(first, open - first);
      const std::string head = text.substr(open, body - open);
      const size_t bracket = head.find('[');
      std::string parameter;
      if (bracket != std::string::npos) {
        parameter = head.substr(head.rfind(' ', bracket) + 1);
        parameter = parameter.substr(0, parameter.find('['));
        kernel.parameter_bytes = std::stoul(head.substr(bracket + 1));
      } else if (const size_t last = head.find("\n)"); last != std::string::npos) {  // an address
        const size_t name = head.rfind(' ', last) + 1;
        parameter = head.substr(name, last - name);
        kernel.parameter_bytes = 8;
      }
      if (const size_t limit = head.find(".maxntid "); limit != std::string::npos) {
        kernel.most_threads = std::stoi(head.substr(limit + 9));
      }
      const std::string inside = BodyOf(text, body);
      ParseKernel(inside, LineAt(text, body), parameter, names, kernel);
      at = body + inside.size() + 2;
      module.kernels.emplace(kernel.name, std::move(kernel));
      continue;
    }
    at = next;
  }
  if (module.target.empty() || module.kernels.empty()) {
    throw std::invalid_argument("PTX: no .target or no .entry");
  }
  return module;
}

}  // namespace jp::software_gpu
