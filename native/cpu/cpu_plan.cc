// SPDX-License-Identifier: Apache-2.0
// The CPU's planner: a model of what a step costs, and the choices made by it.
#include "native/cpu/cpu_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "native/cpu/planning.h"

namespace jp::cpu {
namespace {

// The cost of a step besides its products, counted in multiply-adds of vectors. Fitted to times of
// one and of two workers of both kinds (Xeon with AVX-512, H = 64 to 512, B = 1 to 64, T = 128 and
// 512).
constexpr double kUpdate = 60;      // of a vector of units, for each gate
constexpr double kHandover = 3.75;  // units divided: of each value that is exchanged

// So much of the weights stays in the L1 cache and costs nothing to read.
constexpr double kL1Bytes = 40 << 10;

// Weights read between the updates of two blocks, at most, unless a panel is larger: an update's
// operands are prefetched before the block's products, and must still be in an L2 cache of 512 KiB
// after them.
constexpr int64_t kBlockBytes = 400 << 10;

// Rows of weights that are packed at a time where they are read only once: packing all of them
// first would take several times as long.
constexpr int64_t kPackedAtOnce = 64;

// Weights that so few tiles of rows use, at all steps together, are read where they lie: measured
// at 1 to 10 steps, 1 to 4 rows and 64 to 1024 units, where packing them first took up to 5 times
// as long (AMD EPYC, AVX-512).
constexpr int64_t kInPlaceUses = 10;

// A product's weights: how many bytes each has, and what multiplies them.
struct Weights {
  int bytes;
  Units units;
};

// Bytes of a weight in a tile's registers: 2 if it is widened on the way.
int TileBytes(int64_t rows, const Weights& weights) {
  return weights.bytes == 2 && weights.units == Units::kWidened && rows < kWidenedRows ? 2 : 4;
}

// Half cycles that the tiles of all rows take for one panel and one row of weights, on a core that
// starts two multiply-adds and two loads a cycle and takes four cycles for one, or six for a dot
// product of pairs, which is of two rows. 0: the tile does not fit in the registers.
int64_t TilesCost(int64_t rows, bool single_row, int vectors, const Weights& weights,
                  int registers) {
  const bool pairs = weights.units != Units::kWidened;
  const int64_t most = TileRows(vectors, registers, TileBytes(rows, weights));
  if (single_row && most < 2) return 0;  // a single row has two sets of accumulators
  const int64_t tiles = CeilDiv(rows, most);
  int64_t cost = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t height = (i + 1) * rows / tiles - i * rows / tiles;
    const int64_t latency = pairs ? 12 : single_row ? 4 : 8;
    cost += std::max({height * vectors, height + vectors, latency}) + 1;
  }
  return pairs ? CeilDiv(cost, 2) : cost;
}

// The same, but at least the time in which the L2 cache delivers the weights, padding included. A
// small share of the tiles' cost breaks ties: fewer instructions are better.
double PanelCost(int64_t rows, bool single_row, int vectors, const Weights& weights,
                 const CpuFacts& facts) {
  constexpr double kHalfCycleBytes = 24, kTieBreak = 0.125;
  const auto tiles =
      static_cast<double>(TilesCost(rows, single_row, vectors, weights, facts.vector_count));
  const double bytes = static_cast<double>(vectors) * facts.vector_lanes * weights.bytes;
  return tiles == 0 ? 0 : std::max(tiles, bytes / kHalfCycleBytes) + kTieBreak * tiles;
}

// The fastest width of panels for this many rows and vectors of columns.
int FastestPanel(int64_t rows, bool single_row, int64_t columns, const Weights& weights,
                 const CpuFacts& facts) {
  int best = 0;
  double least = 0;
  for (int vectors : kPanelVectors) {
    const auto cost_of = [&](int computed) {
      return PanelCost(rows, single_row, computed, weights, facts);
    };
    const int64_t before = CeilDiv(columns, vectors) - 1;  // the last panel may be padded
    const double cost = static_cast<double>(before) * cost_of(vectors) +
                        cost_of(ComputedVectors(vectors, columns - before * vectors));
    if (cost > 0 && (best == 0 || cost < least)) {
      best = vectors;
      least = cost;
    }
  }
  return best;
}

// How the workers divide the recurrence of a group, and what a step costs then.
struct Division {
  int workers;
  bool splits_batch;
  double step;
};

// Either each worker has a part of the units and hands over its share of the `values` of each row,
// or it has a part of the batch and hands over nothing, but reads all weights, of the inputs too.
Division Divide(const Problem& problem, int64_t values, int weight_bytes, const CpuFacts& facts) {
  const int64_t hidden = problem.hidden, batch = problem.batch;
  const int gates = problem.cell.gates;
  const double lanes = facts.vector_lanes, rows = static_cast<double>(batch);
  const double units = static_cast<double>(hidden), weights = units * units * gates / lanes;
  const double handover = kHandover * static_cast<double>(values);
  const int unit_step = problem.pass == Pass::kForward ? PanelUnits(gates) : 1;
  const int64_t parts_of_units = CeilDiv(hidden, int64_t{facts.vector_lanes} * unit_step);
  const int64_t most = std::min<int64_t>(facts.threads, parts_of_units);
  const int by_units = static_cast<int>(
      std::clamp<double>(rows * (weights - handover) / kMeeting, 1, static_cast<double>(most)));
  const int64_t vectors = CeilDiv(hidden, facts.vector_lanes);
  const int by_rows = static_cast<int>(std::min<int64_t>({facts.threads, vectors, batch}));
  const int64_t bytes = hidden * hidden * gates * weight_bytes;

  // A worker's step: `some` rows times one part in `parts` of the weights.
  const auto step = [&](double some, double parts) {
    const double in_l1 = std::min(1.0, kL1Bytes * parts / static_cast<double>(bytes));
    const double read = in_l1 + (1 - in_l1) * kL2Rows;
    return (std::max(some, read) * weights + some * kUpdate * gates * units / lanes) / parts;
  };
  const double waking = facts.waking / static_cast<double>(problem.steps * problem.groups);
  Division best{1, false, step(rows, 1)};
  const double largest =  // share of the units
      static_cast<double>(CeilDiv(parts_of_units, by_units)) / static_cast<double>(parts_of_units);
  const double units_divided =
      step(rows, 1 / largest) + (by_units - 1) * (kMeeting + handover * rows / by_units) + waking;
  if (by_units > 1 && units_divided < best.step) best = {by_units, false, units_divided};
  const double batch_divided =
      step(static_cast<double>(CeilDiv(batch, by_rows)), 1) + kDividing + waking;
  const bool can_divide_batch = by_rows > 1 && !Outgrows(2 * bytes, facts);
  if (can_divide_batch && batch_divided < best.step) best = {by_rows, true, batch_divided};
  return best;
}

// How many groups are best run at once. If several, the division becomes that of a single worker.
int GroupsAtOnce(const Problem& problem, int64_t values, int weight_bytes, CpuFacts facts,
                 Division& division) {
  const auto most = static_cast<int>(std::min<int64_t>(facts.threads, problem.groups));
  facts.threads = 1;
  const Division alone = Divide(problem, values, weight_bytes, facts);
  const auto rounds = static_cast<double>(CeilDiv(problem.groups, most));
  const double in_turn = static_cast<double>(problem.groups) * division.step;
  if (most == 1) return 1;
  // Alone, a worker reads all of a group's weights at each step, from beyond its L2 cache if they
  // outgrow that. Backward does more besides, and keeps to the model.
  const int64_t bytes = problem.hidden * problem.hidden * problem.cell.gates * weight_bytes;
  if (problem.pass == Pass::kForward && Outgrows(bytes, facts)) return 1;
  const double waking = kDividing + facts.waking / static_cast<double>(problem.steps);
  if (rounds * alone.step + waking >= in_turn) return 1;
  division = alone;
  return most;
}

// Steps of a chunk: nearly equal chunks of at most kChunkRows rows, or of one step.
int64_t ChunkSteps(const Problem& problem) {
  const int64_t most = std::max<int64_t>(kChunkRows / problem.batch, 1);
  return CeilDiv(problem.steps, CeilDiv(problem.steps, most));
}

}  // namespace

GemmPlan PlanGemm(int64_t k, int64_t units, int gates, int64_t batch, int weight_bytes, int workers,
                  bool splits_batch, int64_t uses, const CpuFacts& facts, Panels panels,
                  Units multiplied_by) {
  GemmPlan plan;
  plan.units = multiplied_by;
  const Weights weights{weight_bytes, multiplied_by};
  plan.k = CeilDiv(k, 2) * 2;
  plan.lanes = facts.vector_lanes;
  plan.gates = gates;
  plan.unit_vectors = CeilDiv(units, facts.vector_lanes);
  plan.slices = splits_batch ? 1 : workers;
  plan.workers = workers;
  plan.common_panels = panels != Panels::kOwn;
  plan.unit_step = plan.common_panels ? PanelUnits(gates) : 1;
  plan.unit_steps = CeilDiv(plan.unit_vectors, plan.unit_step);
  const int64_t largest = CeilDiv(plan.unit_steps, plan.slices) * plan.unit_step;
  const int64_t columns = std::min(largest, plan.unit_vectors) * gates;
  const int64_t share = splits_batch ? CeilDiv(batch, workers) : batch;
  const int64_t rows = std::min<int64_t>(share, kBlockRows);
  plan.panel_vectors = plan.common_panels ? PanelVectors(gates)
                                          : FastestPanel(rows, batch == 1, columns, weights, facts);
  plan.tile_rows = TileRows(plan.panel_vectors, facts.vector_count, TileBytes(rows, weights));
  plan.panels = CeilDiv(columns, plan.panel_vectors);
  const int64_t vector_bytes = plan.k * facts.vector_lanes * weight_bytes;
  plan.slice_bytes = plan.panels * plan.panel_vectors * vector_bytes;
  plan.prefetches = Outgrows(plan.slice_bytes, facts);
  const bool once = plan.SplitsBatch() || uses > 1 || panels == Panels::kGiven;
  plan.in_place = false;
  plan.packed_k = once ? plan.k : std::min(plan.k, kPackedAtOnce);
  const int64_t all_panels = plan.common_panels
                                 ? CeilDiv(plan.unit_vectors * gates, plan.panel_vectors)
                                 : plan.panels * plan.slices;
  plan.packed_bytes = all_panels * plan.panel_vectors * vector_bytes / plan.k * plan.packed_k;
  // Whole panels and whole units, and as many as the caches bear.
  const int step = std::lcm(gates, plan.panel_vectors);
  const int64_t fits =
      std::min<int64_t>(kBlockBytes / vector_bytes, kBlockRows * kMostBlockVectors / rows);
  plan.block_units = static_cast<int>(std::max<int64_t>(fits / step, 1) * step / gates);
  if (panels == Panels::kCommon && ReadsInPlace(batch, uses, multiplied_by, facts))
    plan.ReadInPlace();
  return plan;
}

bool ReadsInPlace(int64_t batch, int64_t uses, Units multiplied_by, const CpuFacts& facts) {
  const bool few = batch <= MostInPlaceRows(facts.vector_lanes) &&
                   (uses == 1 || uses * CeilDiv(batch, 4) <= kInPlaceUses);
  return few && multiplied_by != Units::kTiles;
}

CpuPlan PlanCpu(const Problem& problem, const CpuFacts& facts) {
  const bool forward = problem.pass == Pass::kForward;
  const int64_t hidden = problem.hidden, columns = problem.columns();
  const int64_t inputs = std::max<int64_t>(problem.inputs, 1);
  const int gates = problem.cell.gates, bytes = static_cast<int>(ByteWidth(problem.dtype));
  Division division = Divide(problem, forward ? hidden : columns, bytes, facts);
  CpuPlan plan{};
  plan.groups_at_once = GroupsAtOnce(problem, forward ? hidden : columns, bytes, facts, division);
  const int workers = division.workers;
  const bool splits = division.splits_batch;
  // What the inputs' rows are multiplied by does not depend on how many
  // they are: a chunk of a sequence has the sums that it has in the whole.
  const Units units = problem.dtype == DType::kBfloat16 ? facts.units : Units::kWidened;
  const Units of_step = UnitsOfStep(units, problem.batch);
  plan.chunk_steps = ChunkSteps(problem);
  const int64_t rows = plan.chunk_steps * problem.batch;
  const int64_t uses = problem.steps * CeilDiv(problem.batch, kChunkRows);
  const int64_t input_uses = CeilDiv(problem.steps * problem.batch, kChunkRows);
  if (forward) {
    const Panels panels = problem.packed_lanes != 0 ? Panels::kGiven : Panels::kCommon;
    plan.recurrence = PlanGemm(hidden, hidden, gates, problem.batch, bytes, workers, splits, uses,
                               facts, panels, of_step);
    plan.inputs = PlanGemm(inputs, hidden, gates, rows, bytes, workers, splits, input_uses, facts,
                           panels, units);
  } else {
    plan.recurrence = PlanGemm(columns, hidden, 1, problem.batch, bytes, workers, splits, uses,
                               facts, Panels::kOwn, of_step);
    plan.inputs = PlanGemm(columns, inputs, 1, rows, bytes, workers, splits, input_uses, facts,
                           Panels::kOwn, units);
    // A sum over all rows is one worker's, so that units are divided; its factor, the gates'
    // gradients, is read for the inputs and for h.
    plan.d_weights = PlanGemm(rows, hidden, gates, hidden, sizeof(float), workers, false, 2, facts,
                              Panels::kOwn, units);
    // What is read again and again, and so may need prefetching, is the accumulators.
    const GemmPlan& d = plan.d_weights;
    const int64_t width = d.panels * d.panel_vectors * d.lanes;
    plan.d_weights.prefetches =
        Outgrows((inputs + hidden) * width * static_cast<int64_t>(sizeof(float)), facts);
  }
  const GemmPlan& gemm = plan.recurrence;
  const bool in_l2 = gemm.PackedOnce() && gemm.slice_bytes <= facts.l2_bytes;
  const bool in_l3 = gemm.PackedOnce() && gemm.packed_bytes <= facts.l3_bytes;
  plan.residency = in_l2 ? "L2" : in_l3 ? "L3" : "memory";
  return plan;
}

GemmPlan PlanPacking(const Packing& packing, const CpuFacts& facts) {
  constexpr int64_t kWorkerBytes = 256 << 10;  // at least: less is done before another wakes
  const int width = static_cast<int>(ByteWidth(packing.dtype));
  const int64_t bytes = packing.kernels * packing.rows * packing.gates * packing.units * width;
  const int64_t panels = PanelCount(packing.gates, packing.units, packing.lanes);
  const int64_t most = std::min<int64_t>({facts.threads, panels, bytes / kWorkerBytes});
  const int workers = static_cast<int>(std::max<int64_t>(most, 1));
  return PlanGemm(packing.rows, packing.units, packing.gates, workers, width, workers, true, 2,
                  facts, Panels::kGiven);
}

namespace {

std::string ExplainWeights(const CpuPlan& plan, const CpuFacts& facts) {
  const auto kibibytes = [](int64_t bytes) { return static_cast<long long>(bytes >> 10); };
  const GemmPlan& gemm = plan.recurrence;
  char work[128], text[512];
  if (plan.groups_at_once > 1) {
    std::snprintf(work, sizeof work, "for each of %d workers, which have groups of their own",
                  plan.groups_at_once);
  } else if (gemm.SplitsBatch()) {
    std::snprintf(work, sizeof work, "for each of %d workers, which have rows of their own",
                  gemm.workers);
  } else {
    std::snprintf(work, sizeof work, "over %d worker%s, %lld KiB each", gemm.workers,
                  gemm.workers == 1 ? "" : "s", kibibytes(gemm.slice_bytes));
  }
  if (gemm.in_place) {
    std::snprintf(text, sizeof text,
                  "%lld KiB of weights %s, read where they lie: so few rows and steps do not repay "
                  "packing",
                  kibibytes(gemm.slices * gemm.slice_bytes), work);
    return text;
  }
  if (!gemm.PackedOnce()) {
    std::snprintf(text, sizeof text,
                  "%lld KiB of weights %s, read once: a single step is too few to keep them",
                  kibibytes(gemm.slices * gemm.slice_bytes), work);
    return text;
  }
  std::snprintf(text, sizeof text,
                "%lld KiB of packed weights %s; a core's L2 is %lld KiB, the L3 %lld KiB: the "
                "weights stay in %s%s",
                kibibytes(gemm.packed_bytes), work, kibibytes(facts.l2_bytes),
                kibibytes(facts.l3_bytes), plan.residency.data(),
                plan.residency == "L2"   ? ""
                : plan.residency == "L3" ? " and stream through L2 once a step"
                                         : ", as no cache holds them, and stream once a step");
  return text;
}

}  // namespace

std::string Explain(const CpuPlan& plan, const CpuFacts& facts) {
  return ExplainWeights(plan, facts) + MultipliedBy(plan.recurrence.units);
}

}  // namespace jp::cpu
