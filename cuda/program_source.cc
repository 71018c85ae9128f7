// SPDX-License-Identifier: Apache-2.0
// Writes a step out as the struct that program_pass.h asks for: an instruction a line.
#include "cuda/program_source.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <tuple>

#include "cuda/kernel_cache.h"
#include "cuda/program_arrays.h"

namespace jp::cuda {
namespace {

std::string Format(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}
long long Long(int64_t value) { return value; }  // as %lld has it

// The struct of a type of arrays.
const char* StructOf(ValueType type) {
  switch (type) {
    case ValueType::kFloat32: return "Float32";
    case ValueType::kBfloat16: return "Bfloat16";
    case ValueType::kBool: return "Bool";
  }
  return "";
}

class Writer {
 public:
  Writer(const Program& program, const ProgramStep& step, Precision precision)
      : program_(program), step_(step), dtype_(StructOf(precision)) {}

  std::string Struct() {
    Line("struct Step : ProgramMath<%s::Math> {", dtype_);
    Line("  static constexpr Pass kPass = Pass::%s;",
         step_.pass == Pass::kForward ? "kForward" : "kBackward");
    Line("  static constexpr int kGates = %d, kStates = %d;", step_.gates, step_.states());
    Line("  static constexpr int kMessage = %zu, kProduct = %d;", step_.message.size(),
         step_.products());
    WriteWeight();
    WriteCarry();
    WritePart("Before", step_.before);
    WritePart("After", step_.after);
    Line("};");
    return std::move(text_);
  }

 private:
  void Line(const char* format, auto... values) { text_ += Format(format, values...) + "\n"; }

  // What loads a feature of an operand, or that of the unit.
  std::string Load(int64_t operand, int64_t offset, bool of_unit, int number) const {
    const ProgramArray& array = program_.operands[operand];
    const bool is_step = operand >= program_.consts + program_.carries;
    const bool is_carry = operand >= program_.consts && !is_step;
    const int layout = is_carry
                           ? kHasGroups | kHasRows
                           : (array.has_groups ? kHasGroups : 0) | (array.has_rows ? kHasRows : 0);
    std::string text = Format("at.%s<%s, %d>(%lld, %lld, %lld%s", is_step ? "LoadStep" : "Load",
                              StructOf(array.type), layout, Long(operand), Long(array.features),
                              Long(offset), of_unit ? " + at.unit" : "");
    return text + (is_step ? Format(", %d)", number) : ")");
  }

  // Of row k of the message's value `value`. Switches, as a table that is indexed would be in
  // memory.
  void WriteWeight() {
    Line("  JP_DEVICE static %s::Bits Weight(const ProgramArrays& arrays, int group, int value,",
         dtype_);
    Line("      int gate, int64_t k, int64_t unit) {");
    Line("    switch (value * kProduct + gate) {");
    int number = 0;
    for (const MessageValue& value : step_.message) {
      for (const GateMatrix& gate : value.slice->gates) {
        const ProgramArray& array = program_.operands[gate.operand];
        Line("      case %d:", number++);
        const int64_t k = value.slice->k, units = step_.hidden / value.slice->heads;
        const bool has_heads = value.slice->heads > 1;  // blocks on the diagonal
        if (has_heads) Line("        if (k / %lld != unit / %lld) return 0;", Long(k), Long(units));
        Line("        return static_cast<const %s::Bits*>(arrays.operands[%lld])[", dtype_,
             Long(gate.operand));
        Line("            group * %lldl + %lldl +", Long(array.has_groups ? array.features : 0),
             Long(gate.base + value.row * gate.row));
        if (has_heads) {
          Line("            unit / %lld * %lldl + k %% %lld * %lldl + unit %% %lld * %lldl];",
               Long(units), Long(gate.head), Long(k), Long(gate.row), Long(units),
               Long(gate.column));
        } else {
          Line("            k * %lldl + unit * %lldl];", Long(gate.row), Long(gate.column));
        }
      }
    }
    Line("    }");
    Line("    return 0;");
    Line("  }");
  }

  // The carry before the first step and after the last.
  void WriteCarry() {
    Line("  JP_DEVICE static void Begin(const ProgramPlace& at, float (&state)[kStates]) {");
    ForEachCarried([&](int place, int64_t carry, int64_t offset) {
      const ProgramArray& array = program_.operands[program_.consts + carry];
      Line("    state[%d] = %s::ToFloat(%s);", place, StructOf(array.type),
           Load(program_.consts + carry, offset, true, 0).c_str());
    });
    Line("  }");
    Line("  JP_DEVICE static void End(const ProgramPlace& at, const float (&state)[kStates]) {");
    ForEachCarried([&](int place, int64_t carry, int64_t offset) {
      const ProgramArray& array = program_.operands[program_.consts + carry];
      Line("    at.Store<%s>(%lld, %lld, %lld + at.unit, state[%d]);", StructOf(array.type),
           Long(carry), Long(array.features), Long(offset), place);
    });
    Line("  }");
  }
  template <class F>
  void ForEachCarried(const F& f) const {
    for (size_t i = 0; i < step_.kept.size(); ++i) {
      const auto [buffer, part] = step_.kept[i];
      if (buffer < program_.carries) f(static_cast<int>(i), buffer, part * step_.hidden);
    }
  }

  // One of the parts of a step; null: it sends what is carried, and does nothing else.
  void WritePart(const char* name, const ProgramLoop* loop) {
    const bool is_before = loop != step_.after;
    WriteInputs(name, loop);
    Line("  JP_DEVICE static void %s(const ProgramPlace& at, const Inputs%s& in,", name, name);
    const std::string kind =
        is_before ? "float (&message)[kMessage]" : "const float (&product)[kProduct]";
    Line("                           %s, float (&state)[kStates]) {", kind.c_str());
    stored_.clear();
    registers_.clear();
    values_ = 0;
    if (loop != nullptr) {
      for (const Instruction& instruction : loop->code) WriteInstruction(instruction, is_before);
    }
    if (is_before) WriteMessage();
    for (const auto& [place, value] : stored_) Line("    state[%d] = %s;", place, value.c_str());
    if (!is_before) {
      for (size_t i = 0; i < step_.replaced.size(); ++i) {
        Line("    state[%d] = state[%zu];", step_.replaced[i], step_.kept.size() + i);
      }
    }
    Line("  }");
  }

  // What a part reads from memory, each element once.
  void WriteInputs(const char* name, const ProgramLoop* loop) {
    inputs_.clear();
    std::string members, loads;
    for (const Instruction& i : loop != nullptr ? loop->code : std::vector<Instruction>()) {
      if (i.op != Operation::kLoadOperand) continue;
      const int number = static_cast<int>(inputs_.size());
      if (!inputs_.emplace(InputOf(i), number).second) continue;
      const ValueType type = program_.operands[i.numbers[0]].type;
      members += Format("    %s::Bits x%d;\n", StructOf(type), number);
      loads += Format("    in.x%d = ", number) +
               Load(i.numbers[0], i.numbers[1], i.at[0].kind == RegisterKind::kUnits, number) +
               ";\n";
    }
    Line("  struct Inputs%s {", name);
    text_ += members;
    Line("  };");
    Line("  JP_DEVICE static Inputs%s Load%s(const ProgramPlace& at) {", name, name);
    Line("    Inputs%s in{};", name);
    text_ += loads;
    Line("    return in;");
    Line("  }");
  }
  using Input = std::tuple<int64_t, int64_t, bool>;  // operand, offset, of units
  static Input InputOf(const Instruction& i) {
    return {i.numbers[0], i.numbers[1], i.at[0].kind == RegisterKind::kUnits};
  }

  void WriteInstruction(const Instruction& i, bool is_before) {
    const int64_t n = i.numbers[0], offset = i.numbers[1];
    switch (i.op) {
      case Operation::kLoadOperand:
        return Assign(i.at[0], Format("%s::ToFloat(in.x%d)", StructOf(program_.operands[n].type),
                                      inputs_.at(InputOf(i))));
      case Operation::kLoadBuffer:
        return Assign(i.at[0], Format("state[%d]", step_.PlaceOf(step_.PartAt(n, offset))));
      case Operation::kLoadProduct:  // Of several slices the first stands for the sum of all.
        return Assign(i.at[0], n == 0 ? Format("product[%lld]", Long(offset)) : "0.0f");
      case Operation::kStoreY:
        return Line("    at.StoreStep<%s>(%lld, %lld, %lld%s, %s);", StructOf(program_.ys[n].type),
                    Long(program_.carries + n), Long(program_.ys[n].features), Long(offset),
                    i.at[0].kind == RegisterKind::kUnits ? " + at.unit" : "",
                    Value(i.at[0]).c_str());
      case Operation::kStoreBuffer: return StoreBuffer(step_.PartAt(n, offset), i.at[0], is_before);
      case Operation::kReduce: return;  // refused
      default: break;
    }
    const OperationTraits& traits = TraitsOf(i.op);
    std::string call = Format("Compute%s(", traits.name);
    for (int a = 1; a <= traits.reads; ++a) call += (a > 1 ? ", " : "") + Value(i.at[a]);
    Assign(i.at[0], call + ")");
  }

  // States change when all has been read.
  void StoreBuffer(const BufferPart& part, const Register& from, bool is_before) {
    const std::string value = Value(from);
    const int place = is_before ? step_.PlaceBefore(part) : step_.PlaceOf(part);
    if (place >= 0) stored_.emplace_back(place, value);
    if (!is_before || program_.buffers[part.buffer].is_carry) return;
    for (size_t m = 0; m < step_.message.size(); ++m) {
      if (step_.message[m].part == part) Line("    message[%zu] = %s;", m, value.c_str());
    }
  }

  // Of the carry, as it is before the step.
  void WriteMessage() {
    for (size_t m = 0; m < step_.message.size(); ++m) {
      const BufferPart& part = step_.message[m].part;
      if (!program_.buffers[part.buffer].is_carry) continue;
      Line("    message[%zu] = state[%d];", m, step_.PlaceOf(part));
    }
  }

  // Each value has a name of its own.
  void Assign(const Register& to, const std::string& value) {
    const std::string name = Format("v%d", values_++);
    registers_[{to.kind, to.index}] = name;
    text_ += "    const float " + name + " = " + value + ";\n";
  }
  std::string Value(const Register& of) const {
    if (of.kind != RegisterKind::kLiteral) return registers_.at({of.kind, of.index});
    return Format("arch::FloatOf(0x%08xu)", std::bit_cast<uint32_t>(program_.literals[of.index]));
  }

  const Program& program_;
  const ProgramStep& step_;
  const char* const dtype_;
  std::string text_;
  std::map<Input, int> inputs_;
  std::map<std::pair<RegisterKind, int>, std::string> registers_;
  std::vector<std::pair<int, std::string>> stored_;
  int values_ = 0;
};

}  // namespace

KernelText ProgramKernel(const Program& program, const ProgramStep& step, const KernelPlan& plan) {
  const std::string dtype = StructOf(plan.precision), width = std::to_string(plan.geometry.width);
  const std::string exchange = plan.geometry.cluster() ? "ClusterExchange" : "GridExchange";
  const std::string before = "#include \"cuda/program_pass.h\"\n\nnamespace jp::cuda {\n\n" +
                             Writer(program, step, plan.precision).Struct() +
                             "\nextern \"C\" JP_KERNEL(kMostWarps* kLanes)\n";
  const std::string after = "(JP_CONSTANT LaunchArgs<ProgramArrays> args) {\n  ProgramPass<Step, " +
                            dtype + ", " + exchange + ", " + width +
                            ">(args).Run();\n}\n\n}  // namespace jp::cuda\n";
  CacheKey key("");
  key.Add(before);
  key.Add(after);
  const std::string name = "scan_" + std::to_string(step.gates) + "_" + NameOf(plan.precision) +
                           (plan.geometry.cluster() ? "_cluster_" : "_grid_") + width + "_" +
                           key.Digits();
  return {name, before + name + after, plan.geometry.cluster()};
}

}  // namespace jp::cuda
