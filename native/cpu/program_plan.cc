// SPDX-License-Identifier: Apache-2.0
// Plans programs: a model of what a step costs decides how workers share it.
#include "native/cpu/program_plan.h"

#include <algorithm>
#include <numeric>

#include "native/cpu/planning.h"

namespace jp::cpu {
namespace {

constexpr double kSimple = 4, kCostly = 35;  // an instruction on a vector, in multiply-adds of one
constexpr double kL3Rows = 8;                // as kL2Rows, of weights in the L3 cache

const ProgramArray& MatrixOf(const Program& program, const ProgramSlice& slice) {
  return program.operands[slice.gates[0].operand];
}

int WeightBytes(const Program& program, const ProgramSlice& slice) {
  return MatrixOf(program, slice).type == ValueType::kFloat32 ? 4 : 2;
}

// Of a vector that is not bfloat16 itself, nothing is rounded.
Units UnitsOf(const Program& program, const ProgramSlice& slice, const CpuFacts& facts) {
  const bool takes = slice.rounds && MatrixOf(program, slice).type == ValueType::kBfloat16;
  return takes ? UnitsOfStep(facts.units, program.rows) : Units::kWidened;
}

// Of a matrix that is packed, whose panels the workers divide: each has those with columns of its
// units, and room for the products of all.
GemmPlan PlanPacked(const Program& program, const ProgramSlice& slice, int parts, Units units,
                    const CpuFacts& facts) {
  GemmPlan plan = PlanGemm(slice.k, MatrixOf(program, slice).columns, 1, program.rows,
                           WeightBytes(program, slice), 1, false, 2, facts, Panels::kGiven, units);
  plan.slice_bytes /= parts;
  plan.prefetches = Outgrows(plan.slice_bytes, facts);
  return plan;
}

// Whether each row of all gates' weights lies in one run, one row as far from the next in all.
bool LiesInRows(const ProgramSlice& slice) {
  return slice.gates.size() <= kInPlaceGates &&
         std::ranges::all_of(slice.gates, [&](const GateMatrix& gate) {
           return gate.column == 1 && gate.row == slice.gates[0].row;
         });
}

double CostOf(Operation op) {
  switch (op) {
    case Operation::kExp:
    case Operation::kLog:
    case Operation::kLog1p:
    case Operation::kLogistic:
    case Operation::kTanh:
    case Operation::kReduce: return kCostly;
    case Operation::kPow:
    case Operation::kRint:
    case Operation::kRound:
    case Operation::kCeil:
    case Operation::kFloor:
    case Operation::kCos:
    case Operation::kSin:
    case Operation::kTan:
    case Operation::kErf:
    case Operation::kExp2:
    case Operation::kExpm1: return 8 * kCostly;
    default: return kSimple;
  }
}

struct Work {
  double weights = 0;  // vectors of weights that a step reads
  double bytes = 0;
  double updates = 0;  // of a row
  double vectors = 0;  // of units of the widest loop
};

Work WorkOf(const Program& program, const CpuFacts& facts) {
  Work work;
  for (const auto& stage : program.stages) {
    for (const ProgramLoop& loop : stage) {
      const auto vectors = static_cast<double>(CeilDiv(loop.width, facts.vector_lanes));
      work.vectors = std::max(work.vectors, vectors);
      for (const ProgramSlice& slice : loop.slices) {
        const double read = vectors * static_cast<double>(slice.gates.size() * slice.k);
        work.weights += read;
        work.bytes += read * facts.vector_lanes * WeightBytes(program, slice);
      }
      for (const Instruction& instruction : loop.code) {
        work.updates += vectors * CostOf(instruction.op);
      }
    }
  }
  return work;
}

struct Division {
  int workers;
  bool splits_batch;
};

Division Divide(const Program& program, int64_t meetings, const CpuFacts& facts) {
  const Work work = WorkOf(program, facts);
  const auto rows = static_cast<double>(program.rows);
  const auto step = [&](double some, double parts) {
    const bool outgrows = Outgrows(static_cast<int64_t>(work.bytes / parts), facts);
    const double read = outgrows ? kL3Rows : kL2Rows;
    return (std::max(some, read) * work.weights + some * work.updates) / parts;
  };
  const double waking = facts.waking / static_cast<double>(std::max<int64_t>(program.steps, 1));
  Division best{1, false};
  double least = step(rows, 1);
  const int by_units = static_cast<int>(std::min<double>(facts.threads, work.vectors));
  for (int workers = 2; workers <= by_units; ++workers) {
    const double largest = static_cast<double>(workers);
    const double cost =
        step(rows, largest) + static_cast<double>(meetings) * kMeeting * (workers - 1) + waking;
    if (cost < least) best = {workers, false}, least = cost;
  }
  const int by_rows = static_cast<int>(std::min<int64_t>(facts.threads, program.rows));
  for (int workers = 2; workers <= by_rows; ++workers) {
    const auto some = static_cast<double>(CeilDiv(program.rows, workers));
    const double cost = step(some, 1) + waking;
    if (cost < least) best = {workers, true}, least = cost;
  }
  return best;
}

bool IsStream(const Program& program, const Instruction& instruction) {
  return instruction.op == Operation::kStoreY ||
         (instruction.op == Operation::kLoadOperand && instruction.numbers[0] >= program.consts);
}

int64_t CountStreams(const Program& program, const ProgramLoop& loop) {
  return std::ranges::count_if(loop.code,
                               [&](const Instruction& i) { return IsStream(program, i); });
}

}  // namespace

ProgramPlan PlanProgram(const Program& program, const CpuFacts& facts) {
  const auto meetings = static_cast<int64_t>(program.stages.size()) - program.early;
  const Division division = Divide(program, meetings, facts);
  return PlanProgram(program, facts, division.workers, division.splits_batch);
}

ProgramPlan PlanProgram(const Program& program, const CpuFacts& facts, int workers,
                        bool splits_batch) {
  ProgramPlan plan;
  plan.main_stages = static_cast<int64_t>(program.stages.size()) - program.early;
  plan.workers = workers;
  plan.splits_batch = splits_batch;
  plan.meets = workers > 1 && !splits_batch;
  plan.phases = 2 + (plan.meets ? program.early + program.steps * plan.main_stages : 1);
  int64_t used = 0;
  const auto place = [&](int64_t bytes) {
    const int64_t at = used;
    used += CeilDiv(bytes, 64) * 64;
    return at;
  };
  constexpr int64_t kFloat = sizeof(float);
  const auto take_rounded = [&](const GemmPlan& gemm) {
    const int64_t rows = std::min<int64_t>(program.rows, kChunkRows);
    const int64_t values = gemm.units == Units::kWidened ? 0 : rows * gemm.RoundedStride();
    plan.rounded_values = std::max(plan.rounded_values, values);
  };
  int64_t registers = 0;
  for (const auto& stage : program.stages) {
    auto& loops = plan.loops.emplace_back();
    for (const ProgramLoop& loop : stage) {
      const int64_t streams = CountStreams(program, loop);
      LoopPlan& planned =
          loops.emplace_back(LoopPlan{{}, plan.link_count, plan.stream_count, streams});
      plan.link_count += static_cast<int64_t>(loop.code.size());
      plan.stream_count += streams;
      registers = std::max(registers, loop.registers + loop.row_registers);
      int64_t products = 0;
      for (const ProgramSlice& slice : loop.slices) {
        SlicePlan& each = planned.slices.emplace_back();
        each.products = products;
        const Units by = UnitsOf(program, slice, facts);
        plan.units = std::max(plan.units, by);
        if (MatrixOf(program, slice).is_packed) {
          each.gemm = PlanPacked(program, slice, plan.splits_batch ? 1 : plan.workers, by, facts);
          const int64_t width = each.gemm.panels * each.gemm.panel_vectors * each.gemm.lanes;
          // A vector of units may begin with a matrix's last column.
          products += program.rows * width + facts.vector_lanes;
          take_rounded(each.gemm);
          plan.packed_bytes += each.gemm.packed_bytes;
          plan.worker_bytes += each.gemm.slice_bytes;
          continue;
        }
        // Of several heads each is packed as a whole, by one worker.
        const int64_t heads = slice.heads, parts = heads > 1 ? 1 : plan.workers;
        each.gemm = PlanGemm(slice.k, loop.width / heads, static_cast<int>(slice.gates.size()),
                             program.rows, WeightBytes(program, slice), static_cast<int>(parts),
                             plan.splits_batch && parts > 1, 2, facts, Panels::kOwn, by);
        if (LiesInRows(slice) && ReadsInPlace(program.rows, program.steps, by, facts)) {
          plan.in_place_bytes += static_cast<int64_t>(slice.gates.size()) * slice.k * loop.width *
                                 WeightBytes(program, slice);
          each.gemm.ReadInPlace();
        }
        take_rounded(each.gemm);
        each.packed = place(heads * each.gemm.packed_bytes);
        const GemmPlan& gemm = each.gemm;
        products += heads * program.rows * gemm.panels * gemm.panel_vectors * gemm.lanes;
        plan.packed_bytes += heads * each.gemm.packed_bytes;
        const bool all = parts > 1 || plan.splits_batch;
        plan.worker_bytes += all ? heads * each.gemm.slice_bytes
                                 : CeilDiv(heads, plan.workers) * each.gemm.slice_bytes;
      }
      plan.product_floats = std::max(plan.product_floats, CeilDiv(products, 16) * 16);
    }
  }
  for (const ProgramBuffer& buffer : program.buffers) {
    plan.buffer_rows.push_back(RowStride(buffer.width));
    plan.buffers.push_back(place(2 * program.rows * RowStride(buffer.width) * kFloat));
  }
  plan.products = place(plan.workers * plan.product_floats * kFloat);
  plan.register_floats = registers * kBlockVectors * facts.vector_lanes;
  plan.registers = place(plan.workers * plan.register_floats * kFloat);
  const auto of_workers = [&]<class T>(int64_t& count, T) {
    constexpr int64_t kInLine = 64 / std::gcd<int64_t, int64_t>(64, sizeof(T));
    count = CeilDiv(count, kInLine) * kInLine;  // workers share no cache line
    return place(plan.workers * count * static_cast<int64_t>(sizeof(T)));
  };
  plan.view_count = static_cast<int64_t>(program.literals.size()) + plan.link_count;
  plan.latest_count = registers;
  plan.links = of_workers(plan.link_count, Link{});
  plan.views = of_workers(plan.view_count, View{});
  plan.streams = of_workers(plan.stream_count, Stream{});
  plan.latest = of_workers(plan.latest_count, int32_t{});
  plan.rounded = place(plan.workers * plan.rounded_values * 2);
  plan.literals =
      place(static_cast<int64_t>(program.literals.size()) * facts.vector_lanes * kFloat);
  plan.bytes = used;
  const bool in_l2 = plan.worker_bytes <= facts.l2_bytes;
  const bool in_l3 =
      facts.l3_bytes > 0 && plan.packed_bytes + plan.in_place_bytes <= facts.l3_bytes;
  plan.residency = in_l2 ? "L2" : in_l3 ? "L3" : "memory";
  return plan;
}

std::string Explain(const ProgramPlan& plan, const CpuFacts& facts) {
  const auto kibibytes = [](int64_t bytes) {
    return std::to_string((bytes + 1023) >> 10) + " KiB";
  };
  std::string text;
  if (plan.packed_bytes > 0 || plan.in_place_bytes == 0) {
    text = kibibytes(plan.packed_bytes) + " of packed weights";
  }
  if (plan.in_place_bytes > 0) {
    text += (text.empty() ? "" : " and ") + kibibytes(plan.in_place_bytes) + " of weights";
  }
  text += plan.splits_batch ? " for each of " : " over ";
  text += std::to_string(plan.workers) + (plan.workers == 1 ? " worker" : " workers");
  if (plan.in_place_bytes > 0) {
    text += plan.packed_bytes > 0 ? ", the latter" : ",";
    text += " read where they lie: so few rows and steps do not repay packing";
  }
  text += "; a core's L2 is " + kibibytes(facts.l2_bytes) + ", the L3 " + kibibytes(facts.l3_bytes);
  text += ": the weights stay in " + std::string(plan.residency) + "; the workers meet " +
          std::to_string(plan.meets ? plan.main_stages : 0) + " times a step";
  return text + MultipliedBy(plan.units);
}

}  // namespace jp::cpu
