// SPDX-License-Identifier: Apache-2.0
// What each opcode that NVRTC writes means, and which operands it has.
#include "tests/cuda/software_gpu/decode.h"

#include <map>
#include <set>
#include <stdexcept>

#include "tests/cuda/software_gpu/statements.h"

namespace jp::software_gpu {
namespace {

class Decoder {
 public:
  explicit Decoder(Operands& operands) : operands_(operands) {}

  Decoded Decode(std::string text) {
    Instruction in;
    if (text[0] == '@') {
      const auto space = text.find(' ');
      std::string guard = text.substr(1, space - 1);
      in.guard_negated = guard[0] == '!';
      if (in.guard_negated) guard = guard.substr(1);
      in.guard = operands_.Column(guard, Type::kPred);
      text = text.substr(text.find_first_not_of(' ', space));
    }
    const auto space = text.find(' ');
    const std::string opcode = text.substr(0, space);
    const Words a = space == std::string::npos ? Words{} : Split(text.substr(space), ',');
    // The parts of an opcode: "ld", "shared::cta", "v4", "u32".
    DecodeAny(in, opcode, Split(opcode, '.'), a);
    return {in, label_};
  }

 private:
  void DecodeAny(Instruction& in, const std::string& opcode, const Words& parts, const Words& a) {
    const std::string& name = parts[0];
    const auto take = [&](size_t first, size_t count, Type type) {
      if (a.size() < first + count) throw std::invalid_argument("too few operands");
      for (size_t i = first; i < first + count; ++i) in.x[i] = operands_.Column(a[i], type);
    };
    if (name == "ld" || name == "st" || name == "red") return DecodeMemory(in, opcode, parts, a);
    if (name == "mov") return DecodeMove(in, parts, a);
    if (name == "cvt") return DecodeConversion(in, opcode, parts, a);
    if (name == "bra") {
      in.op = Op::kBra;
      label_ = a.at(0);
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
      for (size_t i = 0; i < given.size(); ++i) in.x[i] = operands_.CallParameter(given[i]);
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
      in.x[0] = operands_.Address(a[0], in.offset, wide);
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
      in.x[0] = operands_.Column(a[0], Type::kB32);
      in.x[1] = a.size() > 1 ? operands_.Column(a[1], Type::kB32) : kNone;
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
      in.x[0] = operands_.Column(result[0], Type::kB32);
      in.x[5] = result.size() > 1 ? operands_.Column(result[1], Type::kPred) : kNone;
      for (int i = 1; i < 5; ++i) in.x[i] = operands_.Column(a[i], Type::kB32);
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
      for (size_t i = first; i < first + count; ++i) in.x[i] = operands_.Column(a[i], type);
    };
    if (parts.back() == "f64") {
      if (opcode != "mul.rn.f64" && opcode != "mul.f64") throw std::invalid_argument("unknown");
      in.op = Op::kMulDouble;
      return take(0, 3, in.type);
    }
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
          in.x[0] = operands_.Column(a[0], BytesOf(in.type) == 4 ? Type::kB64 : Type::kB32);
          return take(1, 2, in.type);
        }
      }
      return take(0, 3, in.type);
    }
    if (name == "shl" || name == "shr") {
      in.op = name == "shl" ? Op::kShl : Op::kShr;
      take(0, 2, in.type);
      in.x[2] = operands_.Column(a[2], Type::kB32);
    } else if (name == "fma" || name == "mad") {
      if (name == "fma" && !real) throw std::invalid_argument("unknown");
      in.op = real ? (Has(parts, "rm") ? Op::kFmaDown : Op::kFma) : Op::kMad;
      if (!real && parts[1] == "wide") {
        in.op = Op::kMadWide;
        in.x[0] = operands_.Column(a[0], Type::kB64);
        take(1, 2, in.type);
        in.x[3] = operands_.Column(a[3], Type::kB64);
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
          {"geu", Compare::kGeu}, {"num", Compare::kNum}, {"nan", Compare::kNan}};
      in.kind = static_cast<uint8_t>(kinds.at(parts[1]));
      in.x[0] = operands_.Column(a[0], Type::kPred);
      take(1, 2, in.type);
    } else if (name == "selp") {
      in.op = Op::kSelp;
      take(0, 3, in.type);
      in.x[3] = operands_.Column(a[3], Type::kPred);
    } else if (name == "bfi") {
      in.op = Op::kBfi;
      take(0, 3, in.type);
      in.x[3] = operands_.Column(a[3], Type::kB32);
      in.x[4] = operands_.Column(a[4], Type::kB32);
    } else if (name == "prmt") {
      in.op = Op::kPrmt;
      take(0, 4, Type::kB32);
    } else {
      throw std::invalid_argument("unknown instruction " + opcode);
    }
  }

  void DecodeMove(Instruction& in, const Words& parts, const Words& a) {
    in.type = TypeOf(parts.back());
    const Type half = IsWide(in.type) ? Type::kB32 : Type::kB16;
    if (a[1] == "%globaltimer" || a[1] == "%clock64") {
      in.op = Op::kClock;
      in.x[0] = operands_.Column(a[0], Type::kB64);
    } else if (a[1][0] == '{') {
      in.op = Op::kPack;
      const Words from = Inside(a[1]);
      in.x[0] = operands_.Column(a[0], in.type);
      for (size_t i = 0; i < 2; ++i) in.x[1 + i] = operands_.Column(from.at(i), half);
    } else if (a[0][0] == '{') {
      in.op = Op::kUnpack;
      const Words to = Inside(a[0]);
      for (size_t i = 0; i < 2; ++i)
        in.x[i] = to.at(i) == "_" ? kNone : operands_.Column(to.at(i), half);
      in.x[2] = operands_.Column(a[1], in.type);
    } else {
      in.op = Op::kMov;
      in.x[0] = operands_.Column(a[0], in.type);
      in.x[1] = operands_.Column(a[1], in.type);
    }
  }

  void DecodeConversion(Instruction& in, const std::string& opcode, const Words& parts,
                        const Words& a) {
    const std::string &to = parts[parts.size() - 2], &from = parts.back();
    const auto columns = [&](Type to_type, Type from_type) {
      in.type = to_type;
      in.from = from_type;
      in.x[0] = operands_.Column(a[0], to_type);
      in.x[1] = operands_.Column(a[1], from_type);
    };
    if (opcode == "cvt.sat.f32.f32") {
      in.op = Op::kCvtSat;
      return columns(Type::kF32, Type::kF32);
    }
    // The few that sine's reduction of large arguments has.
    if (opcode == "cvt.rn.f64.s64" || opcode == "cvt.rn.f32.f64") {
      in.op = to == "f64" ? Op::kToDouble : Op::kFromDouble;
      return columns(TypeOf(to), Type::kB64);
    }
    static const std::map<std::string, Rounding> roundings = {{"rni", Rounding::kToEven},
                                                              {"rzi", Rounding::kToZero},
                                                              {"rmi", Rounding::kDown},
                                                              {"rpi", Rounding::kUp}};
    if (from == "f32" && roundings.contains(parts[1])) {
      in.op = to == "f32" ? Op::kRound : Op::kToInt;
      in.kind = static_cast<uint8_t>(roundings.at(parts[1]));
      return columns(TypeOf(to), Type::kF32);
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
      in.x[0] = operands_.Address(a[0], in.offset, wide);
      const Words values = Inside(a[1]);
      for (size_t i = 0; i < 4; ++i) in.x[2 + i] = operands_.Column(values.at(i), Type::kB32);
      int64_t none = 0;
      in.x[1] = operands_.Address(a[2], none, wide);
      if (none != 0) throw std::invalid_argument("offset of a barrier");
      return;
    }
    static const std::set<std::string> known = {
        "ld",    "st",  "red",     "relaxed", "acquire", "release",         "volatile",
        "gpu",   "sys", "cluster", "cta",     "global",  "shared",          "shared::cta",
        "param", "nc",  "v2",      "v4",      "add",     "L1::no_allocate", "local"};
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      if (!known.contains(parts[i])) throw std::invalid_argument("unknown ." + parts[i]);
    }
    in.type = TypeOf(parts.back());
    in.space = Has(parts, "global")                                ? Space::kGlobal
               : Has(parts, "shared") || Has(parts, "shared::cta") ? Space::kShared
               : Has(parts, "param")                               ? Space::kParam
               : Has(parts, "local")                               ? Space::kLocal
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
      in.op = IsWide(in.type) ? Op::kMov : Op::kCvt;
      in.x[0] = operands_.CallParameter(name);
      in.x[1] = operands_.Column(value, in.type);
      in.from = in.type;
      in.type = Type::kB64;
      return;
    }
    bool wide = false;
    in.x[0] = operands_.Address(memory, in.offset, wide);
    in.x[1] = wide;
    const Words values = Inside(value);
    in.vector = static_cast<uint8_t>(values.size());
    in.from = in.type;
    for (size_t i = 0; i < values.size(); ++i) {
      in.x[2 + i] = operands_.Column(values[i], in.type);
      if (operands_.IsWideRegister(values[i])) in.from = Type::kB64;  // extended, or cut off
    }
  }

  void DecodeBarrier(Instruction& in, const std::string& opcode, const Words& a) {
    bool wide = false;
    if (opcode.starts_with("mbarrier.init.shared")) {
      in.op = Op::kMbarrierInit;
      in.x[0] = operands_.Address(a[0], in.offset, wide);
      in.x[1] = operands_.Column(a[1], Type::kB32);
    } else if (opcode.starts_with("mbarrier.arrive.expect_tx.")) {
      in.op = Op::kMbarrierExpect;
      in.x[0] = operands_.Address(a[1], in.offset, wide);
      in.x[1] = operands_.Column(a[2], Type::kB32);
    } else if (opcode.starts_with("mbarrier.try_wait.parity.")) {
      in.op = Op::kMbarrierTryWait;
      in.x[0] = operands_.Column(a[0], Type::kPred);
      in.x[1] = operands_.Address(a[1], in.offset, wide);
      in.x[2] = operands_.Column(a[2], Type::kB32);
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
      for (const std::string& name : Inside(a.at(i)))
        in.x[at++] = operands_.Column(name, Type::kB32);
    }
    if (at != 14) throw std::invalid_argument("operands");
  }

  Operands& operands_;
  std::string label_;
};

}  // namespace

Decoded Decode(const std::string& text, Operands& operands) {
  return Decoder(operands).Decode(text);
}

}  // namespace jp::software_gpu
