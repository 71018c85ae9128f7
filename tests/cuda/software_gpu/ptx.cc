// SPDX-License-Identifier: Apache-2.0
// The parser: statements, then one instruction each.
#include "tests/cuda/software_gpu/ptx.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string_view>

namespace jp::software_gpu {
namespace {

using Words = std::vector<std::string>;

Words Split(std::string_view text, char separator) {
  Words parts;
  int depth = 0;
  std::string current;
  const auto flush = [&] {
    const auto first = current.find_first_not_of(" \t\n");
    if (first != std::string::npos) {
      parts.push_back(current.substr(first, current.find_last_not_of(" \t\n") - first + 1));
    }
    current.clear();
  };
  for (const char c : text) {
    depth += c == '{' || c == '[' || c == '(';
    depth -= c == '}' || c == ']' || c == ')';
    if (c == separator && depth == 0) {
      flush();
    } else {
      current += c;
    }
  }
  flush();
  return parts;
}

// The parts of an opcode: "ld", "shared::cta", "v4", "u32".
Words PartsOf(const std::string& opcode) { return Split(opcode, '.'); }

bool Has(const Words& parts, std::string_view part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

struct Statement {
  std::string text;
  uint32_t line;
};

// Without comments. A brace that opens or closes a scope is a statement of its own, as is a label.
std::vector<Statement> StatementsOf(const std::string& text, uint32_t line) {
  std::vector<Statement> statements;
  std::string current;
  uint32_t began = line;
  const auto blank = [&] { return current.find_first_not_of(" \t\r") == std::string::npos; };
  const auto push = [&](std::string what) {
    statements.push_back({std::move(what), began});
    current.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
      ++line;
      current += ' ';
    } else if (c == '\n') {
      ++line;
      current += ' ';
    } else if ((c == '{' || c == '}') && blank()) {
      began = line;
      push(std::string(1, c));
    } else if (c == ';') {
      push(Split(current, '\0').empty() ? "" : Split(current, '\0')[0]);
    } else if (c == ':' && current.find_first_of("$") != std::string::npos &&
               current.find(' ') == std::string::npos &&
               (i + 1 == text.size() || text[i + 1] != ':')) {
      push(current + ":");
    } else {
      if (blank()) {
        began = line;
        current.clear();
        if (c == ' ' || c == '\t' || c == '\r') continue;
      }
      current += c == '\t' ? ' ' : c;
    }
  }
  return statements;
}

class KernelParser {
 public:
  KernelParser(Kernel& kernel, std::string parameters,
               const std::map<std::string, uint64_t>& globals, const std::set<std::string>& shared)
      : kernel_(kernel), parameters_(std::move(parameters)), globals_(globals), shared_(shared) {}

  void Parse(const std::string& body, uint32_t line) {
    for (const Statement& statement : StatementsOf(body, line)) {
      line_ = statement.line;
      text_ = statement.text;
      if (!text_.empty() && text_ != "{" && text_ != "}") ParseStatement();
    }
    for (const auto& [index, label] : branches_) {
      const auto found = labels_.find(label);
      if (found == labels_.end()) throw std::invalid_argument("PTX: no label " + label);
      kernel_.code[index].target = found->second;
    }
    Instruction end;
    end.op = Op::kRet;
    end.line = line_;
    kernel_.code.push_back(end);
  }

 private:
  [[noreturn]] void Refuse(const std::string& what) const {
    throw std::invalid_argument("PTX line " + std::to_string(line_) + ": " + what + ": " + text_);
  }

  void ParseStatement() {
    if (text_.back() == ':') {
      labels_[text_.substr(0, text_.size() - 1)] = static_cast<uint32_t>(kernel_.code.size());
    } else if (text_.starts_with(".reg")) {
      Declare();
    } else if (text_.starts_with(".param")) {  // of a call: a column of 64 bits
      const Words words = Split(text_, ' ');
      call_parameters_[words.back()] = New64();
    } else if (text_.starts_with(".pragma") || text_.starts_with(".loc")) {
      return;
    } else {
      ParseInstruction();
    }
  }

  uint32_t New32() { return kernel_.columns32++; }
  uint32_t New64() { return kernel_.columns64++; }

  void Declare() {
    const Words words = Split(text_, ' ');  // .reg .b32 %r<12>
    if (words.size() != 3) Refuse("declaration");
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

  void Add(const std::string& name, bool wide) {
    registers_[name] = wide ? New64() : New32();
    if (wide) wide_.insert(name);
  }

  static Type TypeOf(const std::string& name) {
    static const std::map<std::string, Type> types = {
        {"pred", Type::kPred}, {"b8", Type::kB8},   {"u8", Type::kB8},   {"s8", Type::kS8},
        {"b16", Type::kB16},   {"u16", Type::kB16}, {"s16", Type::kS16}, {"b32", Type::kB32},
        {"u32", Type::kB32},   {"s32", Type::kS32}, {"f32", Type::kF32}, {"b64", Type::kB64},
        {"u64", Type::kB64},   {"s64", Type::kS64}};
    const auto found = types.find(name);
    if (found == types.end()) throw std::invalid_argument("type " + name);
    return found->second;
  }

  static bool Wide(Type type) { return BytesOf(type) == 8; }

  uint32_t Constant32(uint32_t value) {
    const auto [at, is_new] = constants32_.try_emplace(value, 0);
    if (is_new) {
      at->second = New32();
      kernel_.constants32.emplace_back(at->second, value);
    }
    return at->second;
  }
  uint32_t Constant64(uint64_t value) {
    const auto [at, is_new] = constants64_.try_emplace(value, 0);
    if (is_new) {
      at->second = New64();
      kernel_.constants64.emplace_back(at->second, value);
    }
    return at->second;
  }
  uint32_t Special(uint32_t& column) {
    if (column == kNone) column = New32();
    return column;
  }

  // The column of an operand that is read as `type`.
  uint32_t Column(const std::string& operand, Type type) {
    const auto found = registers_.find(operand);
    if (found != registers_.end()) return found->second;
    if (operand == "%tid.x") return Special(kernel_.tid);
    if (operand == "%ctaid.x") return Special(kernel_.ctaid);
    if (operand == "%ntid.x") return Special(kernel_.ntid);
    if (operand == "%nctaid.x") return Special(kernel_.nctaid);
    if (operand == "%laneid") return Special(kernel_.laneid);
    if (const auto global = globals_.find(operand); global != globals_.end()) {
      return Constant64(global->second);
    }
    if (operand == parameters_) {
      if (kernel_.parameters == kNone) kernel_.parameters = New64();
      return kernel_.parameters;
    }
    if (shared_.contains(operand)) return Wide(type) ? Constant64(0) : Constant32(0);
    if (operand.starts_with("0f") || operand.starts_with("0F")) {
      return Constant32(static_cast<uint32_t>(std::stoul(operand.substr(2), nullptr, 16)));
    }
    try {
      size_t used = 0;
      const uint64_t value = operand[0] == '-'
                                 ? static_cast<uint64_t>(std::stoll(operand, &used, 0))
                                 : std::stoull(operand, &used, 0);
      if (used == operand.size() || operand.substr(used) == "U") {
        if (type == Type::kPred) return Constant32(value != 0);
        return Wide(type) ? Constant64(value) : Constant32(static_cast<uint32_t>(value));
      }
    } catch (const std::logic_error&) {  // not a number
    }
    Refuse("operand " + operand);
  }

  // [base+offset]: the column of the base, of 64 bits or, in shared memory, of its register's
  // width. `wide` says which.
  uint32_t Address(const std::string& operand, int64_t& offset, bool& wide) {
    if (operand.size() < 3 || operand[0] != '[') Refuse("address " + operand);
    std::string base = operand.substr(1, operand.size() - 2);
    offset = 0;
    if (const auto plus = base.find('+'); plus != std::string::npos) {
      offset = std::stoll(base.substr(plus + 1));
      base = base.substr(0, plus);
    }
    wide = wide_.contains(base) || globals_.contains(base) || base == parameters_;
    return Column(base, wide ? Type::kB64 : Type::kB32);
  }

  static Words Inside(const std::string& braces) {
    return braces[0] == '{' ? Split(braces.substr(1, braces.size() - 2), ',') : Words{braces};
  }

  void ParseInstruction() {
    Instruction in;
    in.line = line_;
    std::string text = text_;
    if (text[0] == '@') {
      const auto space = text.find(' ');
      std::string guard = text.substr(1, space - 1);
      in.guard_negated = guard[0] == '!';
      if (in.guard_negated) guard = guard.substr(1);
      in.guard = Column(guard, Type::kPred);
      text = text.substr(text.find_first_not_of(' ', space));
    }
    const auto space = text.find(' ');
    const std::string opcode = text.substr(0, space);
    const Words operands = space == std::string::npos ? Words{} : Split(text.substr(space), ',');
    const Words parts = PartsOf(opcode);
    try {
      Decode(in, opcode, parts, operands);
    } catch (const std::invalid_argument& error) {
      Refuse(error.what());
    }
    kernel_.code.push_back(in);
  }

  void Decode(Instruction& in, const std::string& opcode, const Words& parts, const Words& a) {
    const std::string& name = parts[0];
    const auto take = [&](size_t first, size_t count, Type type) {
      if (a.size() < first + count) throw std::invalid_argument("too few operands");
      for (size_t i = first; i < first + count; ++i) in.x[i] = Column(a[i], type);
    };
    if (name == "ld" || name == "st" || name == "red") return DecodeMemory(in, opcode, parts, a);
    if (name == "mov") return DecodeMove(in, parts, a);
    if (name == "cvt") return DecodeConversion(in, opcode, parts, a);
    if (name == "bra") {
      in.op = Op::kBra;
      branches_.emplace_back(kernel_.code.size(), a[0]);
      return;
    }
    if (name == "ret" || name == "exit") {
      in.op = Op::kRet;
      return;
    }
    if (name == "trap") {
      in.op = Op::kTrap;
      return;
    }
    if (name == "call") {
      if (a.size() != 2 || a[0] != "__assertfail") throw std::invalid_argument("call");
      in.op = Op::kAssertFail;
      const Words given = Split(a[1].substr(1, a[1].size() - 2), ',');
      for (size_t i = 0; i < given.size(); ++i) in.x[i] = call_parameters_.at(given[i]);
      return;
    }
    if (name == "fence" || name == "membar") {
      in.op = Op::kFence;
      in.release = !Has(parts, "acquire");
      return;
    }
    if (name == "prefetch") {
      in.op = Op::kPrefetch;
      bool wide = false;
      in.x[0] = Address(a[0], in.offset, wide);
      return;
    }
    if (opcode == "activemask.b32") {
      in.op = Op::kActiveMask;
      return take(0, 1, Type::kB32);
    }
    if (opcode == "brev.b32" || opcode == "bfind.shiftamt.u32") {
      in.op = name == "brev" ? Op::kReverse : Op::kLeadingZeros;
      return take(0, 2, Type::kB32);
    }
    if (name == "bar") {
      if (opcode == "bar.warp.sync") {
        in.op = Op::kWarpSync;
        if (a[0] != "-1") throw std::invalid_argument("a mask of some lanes");
        return;
      }
      if (opcode != "bar.sync") throw std::invalid_argument("unknown");
      in.op = Op::kBarSync;
      in.x[0] = Column(a[0], Type::kB32);
      in.x[1] = a.size() > 1 ? Column(a[1], Type::kB32) : kNone;
      return;
    }
    if (name == "barrier") {
      if (parts.size() < 3 || parts[1] != "cluster" || !Has(parts, "aligned")) {
        throw std::invalid_argument("unknown");
      }
      in.op = parts[2] == "arrive" ? Op::kClusterArrive : Op::kClusterWait;
      in.release = true;
      return;
    }
    if (name == "mbarrier") return DecodeBarrier(in, opcode, a);
    if (name == "mapa") {
      in.op = Op::kMapa;
      return take(0, 3, Type::kB32);
    }
    if (name == "shfl") {
      in.op = Op::kShfl;
      static const std::map<std::string, Shuffle> kinds = {{"idx", Shuffle::kIdx},
                                                           {"bfly", Shuffle::kBfly},
                                                           {"up", Shuffle::kUp},
                                                           {"down", Shuffle::kDown}};
      in.kind = static_cast<uint8_t>(kinds.at(parts[2]));
      const Words result = Split(a[0], '|');
      in.x[0] = Column(result[0], Type::kB32);
      in.x[5] = result.size() > 1 ? Column(result[1], Type::kPred) : kNone;
      for (int i = 1; i < 5; ++i) in.x[i] = Column(a[i], Type::kB32);
      return;
    }
    if (name == "mma") return DecodeMma(in, opcode, a);
    if (name == "cvta") {
      const bool shared = Has(parts, "shared");
      in.op = !shared ? Op::kMov : Has(parts, "to") ? Op::kFromGenericShared : Op::kToGenericShared;
      in.type = Type::kB64;
      return take(0, 2, Type::kB64);
    }
    DecodeArithmetic(in, opcode, parts, a);
  }

  void DecodeArithmetic(Instruction& in, const std::string& opcode, const Words& parts,
                        const Words& a) {
    const std::string& name = parts[0];
    in.type = TypeOf(parts.back());
    const bool real = in.type == Type::kF32;
    const auto take = [&](size_t first, size_t count, Type type) {
      if (a.size() < first + count) throw std::invalid_argument("too few operands");
      for (size_t i = first; i < first + count; ++i) in.x[i] = Column(a[i], type);
    };
    static const std::map<std::string, Op> unary = {
        {"not", Op::kNot},   {"neg", Op::kNeg},  {"abs", Op::kAbs}, {"rcp", Op::kRcp},
        {"sqrt", Op::kSqrt}, {"ex2", Op::kExp2}, {"lg2", Op::kLog2}};
    static const std::map<std::string, Op> binary = {
        {"add", Op::kAdd}, {"sub", Op::kSub}, {"div", Op::kDiv},          {"rem", Op::kRem},
        {"min", Op::kMin}, {"max", Op::kMax}, {"and", Op::kAnd},          {"or", Op::kOr},
        {"xor", Op::kXor}, {"mul", Op::kMul}, {"copysign", Op::kCopysign}};
    if (const auto found = unary.find(name); found != unary.end()) {
      in.op = found->second;
      return take(0, 2, in.type);
    }
    if (const auto found = binary.find(name); found != binary.end()) {
      in.op = found->second;
      if (name == "mul" && !real) {
        if (parts[1] == "hi") in.op = Op::kMulHi;
        if (parts[1] == "wide") {
          in.op = Op::kMulWide;
          in.x[0] = Column(a[0], BytesOf(in.type) == 4 ? Type::kB64 : Type::kB32);
          return take(1, 2, in.type);
        }
      }
      return take(0, 3, in.type);
    }
    if (name == "shl" || name == "shr") {
      in.op = name == "shl" ? Op::kShl : Op::kShr;
      take(0, 2, in.type);
      in.x[2] = Column(a[2], Type::kB32);
    } else if (name == "fma" || name == "mad") {
      if (name == "fma" && !real) throw std::invalid_argument("unknown");
      in.op = real ? (Has(parts, "rm") ? Op::kFmaDown : Op::kFma) : Op::kMad;
      if (!real && parts[1] == "wide") {
        in.op = Op::kMadWide;
        in.x[0] = Column(a[0], Type::kB64);
        take(1, 2, in.type);
        in.x[3] = Column(a[3], Type::kB64);
        return;
      }
      if (!real && parts[1] != "lo") throw std::invalid_argument("unknown");
      take(0, 4, in.type);
    } else if (name == "setp") {
      in.op = Op::kSetp;
      if (parts.size() != 3) throw std::invalid_argument("unknown");
      static const std::map<std::string, Compare> kinds = {
          {"eq", Compare::kEq},   {"ne", Compare::kNe},   {"lt", Compare::kLt},
          {"le", Compare::kLe},   {"gt", Compare::kGt},   {"ge", Compare::kGe},
          {"lo", Compare::kLt},   {"ls", Compare::kLe},   {"hi", Compare::kGt},
          {"hs", Compare::kGe},   {"equ", Compare::kEqu}, {"neu", Compare::kNeu},
          {"ltu", Compare::kLtu}, {"leu", Compare::kLeu}, {"gtu", Compare::kGtu},
          {"geu", Compare::kGeu}};
      in.kind = static_cast<uint8_t>(kinds.at(parts[1]));
      in.x[0] = Column(a[0], Type::kPred);
      take(1, 2, in.type);
    } else if (name == "selp") {
      in.op = Op::kSelp;
      take(0, 3, in.type);
      in.x[3] = Column(a[3], Type::kPred);
    } else if (name == "bfi") {
      in.op = Op::kBfi;
      take(0, 3, in.type);
      in.x[3] = Column(a[3], Type::kB32);
      in.x[4] = Column(a[4], Type::kB32);
    } else if (name == "prmt") {
      in.op = Op::kPrmt;
      take(0, 4, Type::kB32);
    } else {
      throw std::invalid_argument("unknown instruction " + opcode);
    }
  }

  void DecodeMove(Instruction& in, const Words& parts, const Words& a) {
    in.type = TypeOf(parts.back());
    const Type half = Wide(in.type) ? Type::kB32 : Type::kB16;
    if (a[1] == "%globaltimer" || a[1] == "%clock64") {
      in.op = Op::kClock;
      in.x[0] = Column(a[0], Type::kB64);
    } else if (a[1][0] == '{') {
      in.op = Op::kPack;
      const Words from = Inside(a[1]);
      in.x[0] = Column(a[0], in.type);
      for (size_t i = 0; i < 2; ++i) in.x[1 + i] = Column(from.at(i), half);
    } else if (a[0][0] == '{') {
      in.op = Op::kUnpack;
      const Words to = Inside(a[0]);
      for (size_t i = 0; i < 2; ++i) in.x[i] = to.at(i) == "_" ? kNone : Column(to.at(i), half);
      in.x[2] = Column(a[1], in.type);
    } else {
      in.op = Op::kMov;
      in.x[0] = Column(a[0], in.type);
      in.x[1] = Column(a[1], in.type);
    }
  }

  void DecodeConversion(Instruction& in, const std::string& opcode, const Words& parts,
                        const Words& a) {
    const std::string &to = parts[parts.size() - 2], &from = parts.back();
    const auto columns = [&](Type to_type, Type from_type) {
      in.type = to_type;
      in.from = from_type;
      in.x[0] = Column(a[0], to_type);
      in.x[1] = Column(a[1], from_type);
    };
    if (opcode == "cvt.sat.f32.f32") {
      in.op = Op::kCvtSat;
      return columns(Type::kF32, Type::kF32);
    }
    if (opcode == "cvt.rna.tf32.f32") {
      in.op = Op::kToTf32;
      return columns(Type::kB32, Type::kF32);
    }
    if (opcode == "cvt.rn.bf16.f32" || opcode == "cvt.rn.f16.f32") {
      in.op = to == "bf16" ? Op::kToBfloat16 : Op::kToFloat16;
      return columns(Type::kB16, Type::kF32);
    }
    if (opcode == "cvt.f32.f16" || opcode == "cvt.f32.bf16") {
      in.op = from == "f16" ? Op::kFromFloat16 : Op::kFromBfloat16;
      return columns(Type::kF32, Type::kB16);
    }
    if (to == "f32" && Has(parts, "rn")) {
      in.op = Op::kFromInt;
      return columns(Type::kF32, TypeOf(from));
    }
    if (from == "f32" && Has(parts, "rzi")) {
      in.op = Op::kToInt;
      return columns(TypeOf(to), Type::kF32);
    }
    if (parts.size() != 3 || to[0] == 'f' || from[0] == 'f') throw std::invalid_argument("unknown");
    in.op = Op::kCvt;
    columns(TypeOf(to), TypeOf(from));
  }

  void DecodeMemory(Instruction& in, const std::string& opcode, const Words& parts,
                    const Words& a) {
    const bool store = parts[0] != "ld";
    if (opcode.starts_with("st.async")) {
      if (opcode != "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32") {
        throw std::invalid_argument("unknown");
      }
      in.op = Op::kStAsync;
      bool wide = false;
      in.x[0] = Address(a[0], in.offset, wide);
      const Words values = Inside(a[1]);
      for (size_t i = 0; i < 4; ++i) in.x[2 + i] = Column(values.at(i), Type::kB32);
      int64_t none = 0;
      in.x[1] = Address(a[2], none, wide);
      if (none != 0) throw std::invalid_argument("offset of a barrier");
      return;
    }
    static const std::set<std::string> known = {
        "ld",    "st",  "red",     "relaxed", "acquire", "release",        "volatile",
        "gpu",   "sys", "cluster", "cta",     "global",  "shared",         "shared::cta",
        "param", "nc",  "v2",      "v4",      "add",     "L1::no_allocate"};
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      if (!known.contains(parts[i])) throw std::invalid_argument("unknown ." + parts[i]);
    }
    in.type = TypeOf(parts.back());
    in.space = Has(parts, "global")                                ? Space::kGlobal
               : Has(parts, "shared") || Has(parts, "shared::cta") ? Space::kShared
               : Has(parts, "param")                               ? Space::kParam
                                                                   : Space::kGeneric;
    in.strong = Has(parts, "relaxed") || Has(parts, "acquire") || Has(parts, "volatile");
    in.release = Has(parts, "release");
    const std::string& memory = a.at(store ? 0 : 1);
    const std::string& value = a.at(store ? 1 : 0);
    if (parts[0] == "red") {
      if (!Has(parts, "add") || in.type != Type::kB32) throw std::invalid_argument("unknown");
      in.op = Op::kRedAdd;
    } else {
      in.op = store ? Op::kSt : Op::kLd;
    }
    if (in.space == Space::kParam && store) {  // of a call
      const std::string name = memory.substr(1, memory.find('+') - 1);
      in.op = Wide(in.type) ? Op::kMov : Op::kCvt;
      in.x[0] = call_parameters_.at(name);
      in.x[1] = Column(value, in.type);
      in.from = in.type;
      in.type = Type::kB64;
      return;
    }
    bool wide = false;
    in.x[0] = Address(memory, in.offset, wide);
    in.x[1] = wide;
    const Words values = Inside(value);
    in.vector = static_cast<uint8_t>(values.size());
    in.from = in.type;
    for (size_t i = 0; i < values.size(); ++i) {
      in.x[2 + i] = Column(values[i], in.type);
      if (wide_.contains(values[i])) in.from = Type::kB64;  // extended, or cut off
    }
  }

  void DecodeBarrier(Instruction& in, const std::string& opcode, const Words& a) {
    bool wide = false;
    if (opcode.starts_with("mbarrier.init.shared")) {
      in.op = Op::kMbarrierInit;
      in.x[0] = Address(a[0], in.offset, wide);
      in.x[1] = Column(a[1], Type::kB32);
    } else if (opcode.starts_with("mbarrier.arrive.expect_tx.")) {
      in.op = Op::kMbarrierExpect;
      in.x[0] = Address(a[1], in.offset, wide);
      in.x[1] = Column(a[2], Type::kB32);
    } else if (opcode.starts_with("mbarrier.try_wait.parity.")) {
      in.op = Op::kMbarrierTryWait;
      in.x[0] = Column(a[0], Type::kPred);
      in.x[1] = Address(a[1], in.offset, wide);
      in.x[2] = Column(a[2], Type::kB32);
    } else {
      throw std::invalid_argument("unknown");
    }
    if (wide) throw std::invalid_argument("a barrier's address of 64 bits");
  }

  void DecodeMma(Instruction& in, const std::string& opcode, const Words& a) {
    static const std::map<std::string, Factors> kinds = {
        {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", Factors::kBfloat16},
        {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", Factors::kFloat16},
        {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", Factors::kTf32}};
    const auto found = kinds.find(opcode);
    if (found == kinds.end()) throw std::invalid_argument("unknown");
    in.op = Op::kMma;
    in.kind = static_cast<uint8_t>(found->second);
    size_t at = 0;
    for (size_t i = 0; i < 4; ++i) {  // d, a, b, c
      for (const std::string& name : Inside(a.at(i))) in.x[at++] = Column(name, Type::kB32);
    }
    if (at != 14) throw std::invalid_argument("operands");
  }

  Kernel& kernel_;
  const std::string parameters_;
  const std::map<std::string, uint64_t>& globals_;
  const std::set<std::string>& shared_;
  uint32_t line_ = 0;
  std::string text_;
  std::map<std::string, uint32_t> registers_, labels_, call_parameters_;
  std::set<std::string> wide_;  // registers of 64 bits
  std::map<uint32_t, uint32_t> constants32_;
  std::map<uint64_t, uint32_t> constants64_;
  std::vector<std::pair<size_t, std::string>> branches_;
};

// The text between a brace at `open` and its partner.
std::string BodyOf(const std::string& text, size_t open) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    depth += text[i] == '{';
    depth -= text[i] == '}';
    if (depth == 0) return text.substr(open + 1, i - open - 1);
  }
  throw std::invalid_argument("PTX: a brace is not closed");
}

uint32_t LineAt(const std::string& text, size_t at) {
  return static_cast<uint32_t>(1 + std::count(text.begin(), text.begin() + at, '\n'));
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
  std::map<std::string, uint64_t> globals;
  std::set<std::string> shared;
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
      shared.insert(name.substr(0, name.find('[')));
    } else if (line.starts_with(".global ") || line.starts_with(".visible .global ") ||
               line.starts_with(".weak .global ")) {
      ParseGlobal(line.substr(0, line.rfind(';')), module, globals);
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
      }
      if (const size_t limit = head.find(".maxntid "); limit != std::string::npos) {
        kernel.most_threads = std::stoi(head.substr(limit + 9));
      }
      const std::string inside = BodyOf(text, body);
      KernelParser(kernel, parameter, globals, shared).Parse(inside, LineAt(text, body));
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
