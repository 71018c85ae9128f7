// SPDX-License-Identifier: Apache-2.0
// The planner: what fits, what is quickest by the cycle model, and why a problem is refused.
#include "cuda/plan.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <limits>
#include <utility>

#include "cuda/step_cycles.h"

namespace jp::cuda {
namespace {

constexpr int kMostTiles = 16;                // of a team: 32 threads set up two barriers each
constexpr int64_t kMostElements = 1ll << 28;  // of what the kernels count in 32 bits
constexpr int kVectorBytes = int{sizeof(Vec16B)};
constexpr double kNever = std::numeric_limits<double>::infinity();

template <class Int>
Int Ceil(Int n, Int by) {
  return (n + by - 1) / by;
}
template <class Int>
Int RoundUp(Int n, Int multiple) {
  return Ceil(n, multiple) * multiple;
}

// The next power of two.
int PowerAbove(int n) { return static_cast<int>(std::bit_ceil(static_cast<unsigned>(n) + 1)); }

std::string Format(const char* format, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

long long Long(int64_t value) { return value; }  // as %lld has it

Precision PrecisionOf(const Problem& problem) {
  switch (problem.dtype) {
    case DType::kBfloat16: return Precision::kBfloat16;
    case DType::kFloat16: return Precision::kFloat16;
    case DType::kFloat32:
    case DType::kFloat64: break;  // the latter is refused
  }
  return problem.tf32 ? Precision::kTf32 : Precision::kFloat32;
}

// What the functions below plan for.
struct Task {
  const Problem& problem;
  const DeviceFacts& facts;
  Precision precision;
  int width = 1;
  KernelTraits traits =
      TraitsOf(problem.pass, problem.cell.gates, problem.cell.states, precision, width);

  Task OfWidth(int other) const { return {problem, facts, precision, other}; }
  bool HasWidth(int other) const {
    return cuda::HasWidth(problem.pass, problem.cell.gates, precision, other);
  }
  int hidden() const { return static_cast<int>(problem.hidden); }
  int unit_blocks() const { return Ceil(hidden(), traits.units()); }
  bool sums_reset_gradients() const {
    return problem.pass == Pass::kBackward && problem.has(Part::reset_state);
  }
};

// Where everything lies in a block's shared memory, apart from the weights; in bytes. The weights
// come last and take what is left.
void LayOut(Geometry& g, const Task& task) {
  constexpr int kFloats = kLanes * 4;
  const KernelTraits& traits = task.traits;
  const int warps = g.warps_m * g.warps_k, tiles = g.tiles_per_team;
  const int states = tiles * g.warps_m * traits.slots() / g.cut * traits.states * kFloats;
  g.states = 2 * warps * traits.slots() * traits.gates * kFloats;  // behind the partial sums
  g.reset_sums = g.states + states;
  g.stage = g.reset_sums + (task.sums_reset_gradients() ? states : 0);
  g.messages =
      g.stage + (task.precision == Precision::kFloat32 ? warps * 2 * kLanes * kVectorBytes : 0);
  // Eight lanes read 64 bytes of each of two rows at once: an odd number of chunks between the rows
  // keeps them in different banks.
  g.message_pitch = g.cluster() ? (g.chunks | 1) * kChunkBytes : 0;
  g.sums = g.messages + tiles * 2 * kTileRows * g.message_pitch;
  g.barriers = g.sums + (g.cut > 1 ? tiles * 2 * traits.slots() * kFloats : 0);
  g.ends = g.barriers + (g.cluster_blocks() > 1 ? tiles * 2 * 8 : 0);
  g.weights = RoundUp(g.ends + (task.problem.has(Part::lengths) ? tiles * 4 : 0), 128);
}

// Lays H over teams of `blocks` blocks with `warps_m` unit blocks each, or g.cut of them with one;
// false if that cannot be.
bool Fit(Geometry& g, const Task& task, int blocks, int warps_m) {
  const KernelTraits& traits = task.traits;
  const int bytes = ElementBytes(task.precision);
  g.width = task.width;
  g.unit_blocks = task.unit_blocks();
  g.blocks_per_team = blocks;
  g.warps_m = warps_m;
  g.receivers = Ceil(g.unit_blocks, warps_m) * g.cut;
  g.segment =
      g.cluster() ? g.unit_blocks * traits.units() : RoundUp(task.hidden(), kVectorBytes / bytes);
  g.chunks = Ceil(traits.segments * g.segment * bytes, kChunkBytes);
  g.block_chunks = Ceil(g.chunks, g.cut);
  g.warps_k = std::min(kMostWarps / warps_m, g.block_chunks);
  g.warp_chunks = Ceil(g.block_chunks, g.warps_k);
  g.senders = g.unit_blocks * g.cut * std::min(traits.slots() / g.cut, g.warps_k);
  LayOut(g, task);

  const int beyond = std::max(0, g.warp_chunks - traits.register_chunks);
  const int chunk_bytes = g.warps_m * g.warps_k * traits.chunk_vectors() * kLanes * kVectorBytes;
  const int fitting = (task.facts.shared_bytes - g.weights) / chunk_bytes;
  if (task.facts.shared_bytes < g.weights || fitting < 1) return false;
  g.shared_chunks = std::min(beyond, fitting);
  g.stream_chunks = beyond - g.shared_chunks;
  g.shared_bytes = g.weights + std::max(1, g.shared_chunks) * chunk_bytes;
  return true;
}

// Spreads groups and tiles over teams of which `most` run at once, with `tiles` a team at most.
void Spread(Geometry& g, const Task& task, int most, int tiles) {
  const auto all = static_cast<int>(Ceil<int64_t>(task.problem.batch, kTileRows));
  const auto share = static_cast<int>(std::clamp<int64_t>(most / task.problem.groups, 1, all));
  g.tiles_per_team = std::min({Ceil(all, share), tiles, kMostTiles});
  g.teams_per_group = Ceil(all, g.tiles_per_team);
}

double StepCyclesOf(const Geometry& g, const Task& task) {
  return StepCycles(g, {task.problem, task.precision, task.traits, task.facts.processors}).Total();
}

// Of a launch at most: a cluster's teams find their own place, blocks of a grid must all be there.
int LaunchTeams(const Geometry& g, const Task& task) {
  const int teams = static_cast<int>(task.problem.groups) * g.teams_per_group;
  return g.cluster() ? teams : std::min(teams, task.facts.processors / g.blocks_per_team);
}

// Weights that every step of a launch reads from L2.
int64_t StreamedBytes(const Geometry& g, const Task& task) {
  const int64_t warps = int64_t{g.blocks_per_team} * g.warps_m * g.warps_k;
  return LaunchTeams(g, task) * warps * g.stream_chunks * task.traits.chunk_vectors() * kLanes *
         kVectorBytes;
}

// The quickest of the clusters that hold all weights; none may.
std::optional<Geometry> FitCluster(const Task& task) {
  std::optional<Geometry> best;
  const int most = std::min(task.facts.cluster_blocks, task.facts.processors);
  // From 2 on: st.async is undefined in a cluster of one block.
  for (int blocks = 2; blocks <= most; blocks *= 2) {
    const int warps_m = Ceil(task.unit_blocks(), blocks);
    if (warps_m > kMostWarps) continue;
    if (blocks > 2 && Ceil(task.unit_blocks(), warps_m) * 2 <= blocks) continue;
    Geometry tried{};
    tried.exchange = Exchange::kCluster;
    tried.cut = 1;
    bool fits = false;
    for (int tiles = kMostTiles; tiles > 0 && !fits; tiles /= 2) {
      Spread(tried, task, task.facts.processors / blocks, tiles);
      fits = Fit(tried, task, blocks, warps_m) && tried.stream_chunks == 0;
    }
    if (fits && (!best || StepCyclesOf(tried, task) < StepCyclesOf(*best, task))) best = tried;
  }
  return best;
}

// Blocks that may share K: backward, where a message has the values of all gates and the sums are
// one a unit. Processors come in pairs of neighbours, so that clusters of two leave none without
// work; a GPU that has clusters has room for one of two on each pair.
int MostCut(const Task& task) {
  const bool may = task.problem.pass == Pass::kBackward && task.facts.cluster_blocks > 1;
  return may ? std::min(task.width, 2) : 1;
}

// With `warps_m` unit blocks a block, or one for `cut` blocks.
std::optional<Geometry> FitGridOf(const Task& task, Exchange exchange, int warps_m, int cut) {
  const int blocks = Ceil(task.unit_blocks(), warps_m) * cut;
  if (blocks > task.facts.processors) return std::nullopt;
  Geometry g{};
  g.cut = cut;
  g.exchange = exchange == Exchange::kGridBarrier ? exchange : Exchange::kGridData;
  for (int tiles = kMostTiles; tiles > 0; tiles /= 2) {
    Spread(g, task, task.facts.processors / blocks, tiles);
    if (Fit(g, task, blocks, warps_m)) return g;
  }
  return std::nullopt;
}

// The quickest of the grids: with as many blocks as there are SMs for one team, or with fewer and
// more teams, so that each has fewer tiles; with narrow or wide unit blocks; and with K whole or
// cut.
std::optional<Geometry> FitGrid(const Task& any_width, Exchange exchange, int width, int cut) {
  std::optional<Geometry> best;
  double least_cycles = 0;
  const auto weigh = [&](const Task& task, int warps_m, int tried_cut) {
    const std::optional<Geometry> tried = FitGridOf(task, exchange, warps_m, tried_cut);
    if (!tried || (cut != 0 && cut != tried_cut)) return;
    const bool streams_too_much = StreamedBytes(*tried, task) > task.facts.l2_bytes;
    const double cycles = streams_too_much ? kNever : StepCyclesOf(*tried, task);
    if (best && cycles >= least_cycles) return;
    best = tried;
    least_cycles = cycles;
  };
  for (const int tried_width : kWidths) {
    if ((width != 0 && width != tried_width) || !any_width.HasWidth(tried_width)) continue;
    const Task task = any_width.OfWidth(tried_width);
    const int least = Ceil(task.unit_blocks(), task.facts.processors);
    for (int warps_m = least; warps_m <= kMostWarps; warps_m = PowerAbove(warps_m)) {
      weigh(task, warps_m, 1);
    }
    for (int tried_cut = 2; tried_cut <= MostCut(task); ++tried_cut) weigh(task, 1, tried_cut);
  }
  return best;
}

// What a call reads and writes of sequences, in bytes: that much goes through L2 between a place's
// fill and its message.
int64_t SequenceBytes(const Task& task) {
  const Problem& p = task.problem;
  const int values = p.cell.gates + p.cell.residuals + 1;
  return p.groups * p.batch * p.steps * p.hidden * values * ElementBytes(task.precision);
}

// What the kernels do not take, whatever its size: they leave all products but the recurrent one to
// XLA.
std::string RefuseParts(const Problem& p) {
  if (p.dtype == DType::kFloat64) {
    return "no cuda kernel for float64; there is one for float32, bfloat16 and float16";
  }
  if (p.weights != WeightArrays::kOne) return "the CUDA kernels take weights of one array each";
  if (p.HasWideStates()) return "the CUDA kernels take no states in float32 (chunked) of 16 bits";
  if (p.pass == Pass::kForward) {
    if (!p.has(Part::input_gates))
      return "the CUDA kernels take x W + b (input_gates) in place of x";
    return {};
  }
  if (!p.has(Part::d_gates) || p.has(Part::d_x) || p.has(Part::d_weights)) {
    return "the CUDA kernels give the gradients of the gates (d_gates) in place of those of x and "
           "of the weights";
  }
  if (p.cell.reset_after && !p.has(Part::d_recurrent_gates)) {
    return Format("%s: its recurrent gates have gradients of their own (d_recurrent_gates)",
                  p.cell.name);
  }
  return {};
}

std::string RefuseSizes(const Task& task) {
  const Problem& p = task.problem;
  const DeviceFacts& facts = task.facts;
  if (facts.processors == 0) return "no kernels for this GPU's architecture";
  for (int64_t size : {p.groups * p.batch, p.steps, p.groups * p.columns()}) {
    if (size >= kMostElements) {
      return Format("expected N*B, T and N*G*H below %lld; got %lld", Long(kMostElements),
                    Long(size));
    }
  }
  const int64_t limit = int64_t{kMostWarps} * facts.processors * task.traits.units();
  if (p.hidden <= limit) return {};
  return Format("H = %lld: %d SMs have room for %lld units", Long(p.hidden), facts.processors,
                Long(limit));
}

std::string RefuseExchange(const Task& task, Exchange exchange) {
  const DeviceFacts& facts = task.facts;
  if (exchange != Exchange::kCluster) {
    return Format("%d KiB of shared memory a block are too few", facts.shared_bytes >> 10);
  }
  if (facts.cluster_blocks == 1) return Format("sm_%d has no clusters", facts.architecture);
  return Format("a cluster of %d blocks doesn't hold the weights of H = %lld", facts.cluster_blocks,
                Long(task.problem.hidden));
}

KernelPlan Refuse(std::string why) {
  KernelPlan plan;
  plan.refusal = std::move(why);
  return plan;
}

}  // namespace

std::optional<Exchange> ExchangeOf(std::string_view name) {
  if (name.empty()) return Exchange::kAny;
  if (name == "grid") return Exchange::kGridData;
  if (name == "grid-barrier") return Exchange::kGridBarrier;
  if (name == "cluster") return Exchange::kCluster;
  return std::nullopt;
}

DeviceFacts FactsOfArchitecture(int architecture) {
  constexpr int64_t kMiB = 1 << 20;
  switch (architecture) {
    case 80: return {80, 108, 163 << 10, 1, 40 * kMiB};      // A100
    case 86: return {86, 82, 99 << 10, 1, 6 * kMiB};         // GeForce RTX 3090
    case 89: return {89, 128, 99 << 10, 1, 72 * kMiB};       // GeForce RTX 4090
    case 90: return {90, 132, 227 << 10, 16, 50 * kMiB};     // H100, H200
    case 100: return {100, 148, 227 << 10, 16, 126 * kMiB};  // B200
    case 120: return {120, 170, 99 << 10, 8, 96 * kMiB};     // GeForce RTX 5090
    default: return {.architecture = architecture};
  }
}

KernelPlan PlanKernel(const Problem& problem, const DeviceFacts& facts, Exchange exchange,
                      int width, int cut) {
  const Precision precision = PrecisionOf(problem);
  const Task task{problem, facts, precision};
  if (std::string why = RefuseParts(problem); !why.empty()) return Refuse(std::move(why));
  if (std::string why = RefuseSizes(task); !why.empty()) return Refuse(std::move(why));

  if (width != 0 && !task.HasWidth(width)) {
    return Refuse(Format("no kernel with unit blocks of width %d", width));
  }
  if (cut > MostCut(width != 0 ? task.OfWidth(width) : task)) {
    return Refuse(Format("no kernel whose K is cut over %d blocks", cut));
  }
  std::optional<Geometry> cluster, grid;
  const bool may_be_cluster = exchange == Exchange::kAny || exchange == Exchange::kCluster;
  if (may_be_cluster && width <= 1 && cut <= 1) cluster = FitCluster(task);
  if (exchange != Exchange::kCluster) grid = FitGrid(task, exchange, width, cut);
  if (!cluster && !grid) return Refuse(RefuseExchange(task, exchange));

  KernelPlan plan;
  plan.precision = precision;
  const bool clusters_win =
      cluster &&
      (!grid || StepCyclesOf(*cluster, task) < StepCyclesOf(*grid, task.OfWidth(grid->width)));
  plan.geometry = clusters_win ? *cluster : *grid;
  plan.geometry.fetches_ahead =
      plan.geometry.exchange == Exchange::kGridData && SequenceBytes(task) > facts.l2_bytes;
  const Geometry& g = plan.geometry;
  const KernelTraits traits = task.OfWidth(g.width).traits;
  plan.sends_results = RowsAreAligned(problem, g.segment);
  plan.teams = static_cast<int>(problem.groups) * g.teams_per_group;
  plan.launch_teams = LaunchTeams(g, task);
  const int64_t warps = int64_t{g.blocks_per_team} * g.warps_m * g.warps_k;
  plan.weight_bytes = warps * g.warp_chunks * traits.chunk_vectors() * kLanes * kVectorBytes;
  plan.streamed_bytes = StreamedBytes(g, task.OfWidth(g.width));
  if (plan.streamed_bytes > facts.l2_bytes) {
    return Refuse(
        Format("%lld MiB of weights would be read from memory at every step: registers "
               "and shared memory hold the rest, L2 only %lld MiB",
               Long(plan.streamed_bytes >> 20), Long(facts.l2_bytes >> 20)));
  }
  return plan;
}

int64_t MessageRow(const Problem& problem, int segment) {
  return int64_t{problem.pass == Pass::kForward ? 1 : problem.cell.gates} * segment;
}

bool RowsAreAligned(const Problem& problem, int segment) { return segment == problem.hidden; }

WorkspaceBound BoundWorkspace(const Problem& problem, const DeviceFacts& facts, Exchange exchange) {
  const Precision precision = PrecisionOf(problem);
  const Task narrow{problem, facts, precision};
  WorkspaceBound bound;
  if (exchange == Exchange::kCluster || facts.processors == 0) return bound;
  const int bytes = ElementBytes(precision);
  const int segment = RoundUp(narrow.hidden(), kVectorBytes / bytes);
  if (!RowsAreAligned(problem, segment)) {
    bound.per_step = MessageRow(problem, segment) * bytes;
    if (problem.pass == Pass::kForward) {
      bound.per_row = bound.per_step * (problem.has(Part::reset_state) ? 2 : 1);
    }
  }
  bound.fixed = int64_t{facts.processors} * kMostTiles * int64_t{sizeof(uint32_t)};
  int64_t streamed = 0;
  for (const int width : kWidths) {
    const Task task = narrow.OfWidth(width);
    const int least = Ceil(task.unit_blocks(), facts.processors);
    for (int warps_m = least; warps_m <= kMostWarps && narrow.HasWidth(width); ++warps_m) {
      for (int cut = 1; cut <= (warps_m == 1 ? MostCut(task) : 1); ++cut) {
        const int blocks = Ceil(task.unit_blocks(), warps_m) * cut;
        for (int tiles = 1; tiles <= kMostTiles; ++tiles) {
          Geometry g{};
          g.cut = cut;
          g.tiles_per_team = tiles;
          if (!Fit(g, task, blocks, warps_m)) continue;
          const int64_t warps = int64_t{facts.processors / blocks} * blocks * g.warps_m * g.warps_k;
          streamed = std::max(streamed, warps * g.stream_chunks * task.traits.chunk_vectors() *
                                            kLanes * kVectorBytes);
        }
      }
    }
  }
  bound.fixed += std::min(streamed, facts.l2_bytes);
  return bound;
}

std::string Residency(const KernelPlan& plan) {
  const Geometry& g = plan.geometry;
  const char* farthest = g.stream_chunks > 0   ? "L2"
                         : g.shared_chunks > 0 ? "shared memory"
                                               : "registers";
  return std::string(g.cluster() ? "cluster, " : "grid, ") + farthest;
}

std::string Explain(const KernelPlan& plan, const DeviceFacts& facts) {
  const Geometry& g = plan.geometry;
  const auto s = [](int count) { return count == 1 ? "" : "s"; };
  std::string shared;
  if (g.width > 1) shared = Format(", each message read once for %d unit blocks", g.width);
  if (g.cut > 1) {
    shared += Format(" by %d blocks of a cluster, a part each, which exchange their sums", g.cut);
  }
  std::string text = Format(
      "%lld KiB of weights over %d block%s of %d warps (%d for units, %d for K), exchange through "
      "%s%s; a warp keeps %d of its %d chunks in registers",
      Long(plan.weight_bytes >> 10), g.receivers, s(g.receivers), g.warps_m * g.warps_k, g.warps_m,
      g.warps_k, g.cluster() ? "the cluster's shared memory" : "L2", shared.c_str(),
      g.warp_chunks - g.shared_chunks - g.stream_chunks, g.warp_chunks);
  if (g.shared_chunks > 0) text += Format(", %d in shared memory", g.shared_chunks);
  if (g.stream_chunks > 0) text += Format(", and reads %d from L2 at every step", g.stream_chunks);
  text +=
      Format("; %d team%s of %d of %d SMs, %d tile%s of %d rows each", plan.teams, s(plan.teams),
             g.blocks_per_team, facts.processors, g.tiles_per_team, s(g.tiles_per_team), kTileRows);
  const int launches = Ceil(plan.teams, plan.launch_teams);
  if (launches > 1) text += Format("; %d launches, one after the other", launches);
  return text;
}

}  // namespace jp::cuda
