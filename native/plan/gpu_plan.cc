#include "native/plan/gpu_plan.h"

#include <algorithm>
#include <cstdio>

namespace jp {
namespace {

constexpr int kQuadBytes = 16;
constexpr int kMostTiles = 16;  // of a team: its barriers are set up by as many threads

template <class Int>
Int Ceil(Int n, Int by) {
  return (n + by - 1) / by;
}
template <class Int>
Int RoundUp(Int n, Int multiple) {
  return Ceil(n, multiple) * multiple;
}

GpuKernelTraits TraitsOf(const GpuProblem& p) {
  return p.backward ? GpuBackwardTraits(p.cell.gates, p.cell.states, p.number)
                    : GpuForwardTraits(p.cell.gates, p.cell.states, p.number);
}

std::string Format(const char* format, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

GpuPlan Refuse(std::string why) {
  GpuPlan plan{};
  plan.explanation = std::move(why);
  return plan;
}

// Where everything lies in a block's shared memory, apart from the weights; in bytes. The weights
// come last and take what is left.
void LayOut(GpuPass& pass, const GpuKernelTraits& traits, GpuNumber number) {
  constexpr int kFloats = kGpuLanes * 4;
  const int warps = pass.warps_m * pass.warps_k, tiles = pass.tiles_per_team;
  const int partials = 2 * warps * traits.slots() * traits.gates * kFloats;
  pass.states = partials;
  pass.stage = pass.states + tiles * pass.warps_m * traits.slots() * traits.states * kFloats;
  pass.messages =
      pass.stage + (number == GpuNumber::kFloat32 ? warps * 2 * kGpuLanes * kQuadBytes : 0);
  // Eight lanes read 64 bytes of each of two rows at once: an odd number of chunks between the rows
  // keeps them in different banks.
  pass.message_pitch = pass.cluster ? (pass.chunks | 1) * kGpuChunkBytes : 0;
  pass.barriers = pass.messages + tiles * 2 * kGpuTileRows * pass.message_pitch;
  pass.weights = RoundUp(pass.barriers + (pass.cluster ? tiles * 2 * 8 : 0), 128);
}

// Lays H over teams of `slices` blocks with `warps_m` unit blocks each; false if that cannot be.
bool Fit(GpuPass& pass, const GpuProblem& p, const GpuFacts& facts, int slices, int warps_m) {
  const GpuKernelTraits traits = TraitsOf(p);
  const int bytes = GpuElementBytes(p.number), hidden = static_cast<int>(p.hidden);
  pass.unit_blocks = Ceil(hidden, traits.units());
  pass.slices = slices;
  pass.warps_m = warps_m;
  pass.receivers = Ceil(pass.unit_blocks, warps_m);
  pass.segment =
      pass.cluster ? pass.unit_blocks * traits.units() : RoundUp(hidden, kQuadBytes / bytes);
  pass.chunks = Ceil(traits.segments * pass.segment * bytes, kGpuChunkBytes);
  pass.warps_k = std::min(kGpuWarps / warps_m, pass.chunks);
  pass.warp_chunks = Ceil(pass.chunks, pass.warps_k);
  pass.senders = pass.unit_blocks * std::min(traits.slots(), pass.warps_k);
  LayOut(pass, traits, p.number);

  const int beyond = std::max(0, pass.warp_chunks - traits.register_chunks);
  const int chunk_bytes =
      pass.warps_m * pass.warps_k * traits.chunk_quads() * kGpuLanes * kQuadBytes;
  const int fitting = (facts.shared_bytes - pass.weights) / chunk_bytes;
  if (facts.shared_bytes < pass.weights || fitting < 1) return false;
  pass.shared_chunks = std::min(beyond, fitting);
  pass.stream_chunks = beyond - pass.shared_chunks;
  pass.shared_bytes = pass.weights + std::max(1, pass.shared_chunks) * chunk_bytes;
  return true;
}

// Spreads groups and tiles over teams of which `most` run at once, with `tiles` a team at most.
void Spread(GpuPass& pass, const GpuProblem& p, int most, int tiles) {
  const auto all = static_cast<int>(Ceil<int64_t>(p.batch, kGpuTileRows));
  const auto share = static_cast<int>(std::clamp<int64_t>(most / p.groups, 1, all));
  pass.tiles_per_team = std::min({Ceil(all, share), tiles, kMostTiles});
  pass.teams_per_group = Ceil(all, pass.tiles_per_team);
}

// What a step costs, roughly, in cycles of an H100: the model of cuda/README.md in short, to choose
// between residencies by. Nothing on a GPU has confirmed it.
double StepCycles(const GpuPass& pass, const GpuProblem& p, const GpuFacts& facts) {
  constexpr double kThroughL2 = 828, kThroughCluster = 209;
  constexpr double kL2Bytes = 34.6, kClusterBytes = 13.2, kSharedBytes = 128;  // a cycle, a block
  constexpr double kMultiply = 12.7;  // of two quads a lane, on the matrix units
  constexpr double kMultiplyAdd = 8;  // of a quad a lane and one row, without them
  const GpuKernelTraits traits = TraitsOf(p);
  const double rows = static_cast<double>(std::min<int64_t>(p.batch, kGpuTileRows));
  const double bytes = rows * traits.segments * pass.segment * GpuElementBytes(p.number);
  const double message = pass.cluster ? bytes / kClusterBytes + kGpuTileRows / rows * bytes *
                                                                    pass.warps_m / kSharedBytes
                                      : bytes * pass.warps_m / kL2Bytes;
  const double chunk =
      traits.chunk_quads() * (p.number == GpuNumber::kFloat32 ? kMultiplyAdd * rows : kMultiply);
  const double exchange = pass.cluster ? kThroughCluster : kThroughL2;
  const double tile = message + pass.warp_chunks * chunk;
  // Several tiles hide the way of each other's messages; teams beyond the GPU's SMs come later.
  const double step =
      pass.tiles_per_team == 1 ? exchange + tile : std::max(exchange, pass.tiles_per_team * tile);
  return step * static_cast<double>(
                    Ceil<int64_t>(p.groups * pass.teams_per_group, facts.processors / pass.slices));
}

// The quickest of the clusters that hold all weights; false if none does.
bool FitCluster(GpuPass& best, const GpuProblem& p, const GpuFacts& facts) {
  const int unit_blocks = Ceil(static_cast<int>(p.hidden), TraitsOf(p).units());
  best = {};
  const int most = std::min(facts.cluster_blocks, facts.processors);
  // From 2 on: st.async is undefined in a cluster of one block.
  for (int blocks = 2; blocks <= most; blocks *= 2) {
    const int warps_m = Ceil(unit_blocks, blocks);
    if (warps_m > kGpuWarps) continue;
    if (blocks > 2 && Ceil(unit_blocks, warps_m) * 2 <= blocks) continue;
    GpuPass tried{};
    tried.cluster = true;
    bool fits = false;
    for (int tiles = kMostTiles; tiles > 0 && !fits; tiles /= 2) {
      Spread(tried, p, facts.processors / blocks, tiles);
      fits = Fit(tried, p, facts, blocks, warps_m) && tried.stream_chunks == 0;
    }
    if (!fits) continue;
    if (best.slices == 0 || StepCycles(tried, p, facts) < StepCycles(best, p, facts)) best = tried;
  }
  return best.slices > 0;
}

bool FitGrid(GpuPass& pass, const GpuProblem& p, const GpuFacts& facts) {
  const int unit_blocks = Ceil(static_cast<int>(p.hidden), TraitsOf(p).units());
  const int warps_m = Ceil(unit_blocks, facts.processors);
  if (warps_m > kGpuWarps) return false;
  const int slices = Ceil(unit_blocks, warps_m);
  pass.cluster = false;
  for (int tiles = kMostTiles; tiles > 0; tiles /= 2) {
    Spread(pass, p, facts.processors / slices, tiles);
    if (Fit(pass, p, facts, slices, warps_m)) return true;
  }
  return false;
}

std::string Explain(const GpuPlan& plan, const GpuFacts& facts) {
  const GpuPass& pass = plan.pass;
  std::string text = Format(
      "%lld KiB of weights over %d block%s of %d warps (%d for units, %d for K), exchange through "
      "%s; a warp keeps %d of its %d chunks in registers",
      static_cast<long long>(plan.weight_bytes >> 10), pass.receivers,
      pass.receivers == 1 ? "" : "s", pass.warps_m * pass.warps_k, pass.warps_m, pass.warps_k,
      pass.cluster ? "the cluster's shared memory" : "L2",
      pass.warp_chunks - pass.shared_chunks - pass.stream_chunks, pass.warp_chunks);
  if (pass.shared_chunks > 0) text += Format(", %d in shared memory", pass.shared_chunks);
  if (pass.stream_chunks > 0) {
    text += Format(", and reads %d from L2 at every step", pass.stream_chunks);
  }
  text += Format("; %d team%s of %d of %d SMs, %d tile%s of %d rows each", plan.teams,
                 plan.teams == 1 ? "" : "s", pass.slices, facts.processors, pass.tiles_per_team,
                 pass.tiles_per_team == 1 ? "" : "s", kGpuTileRows);
  const int launches = Ceil(plan.teams, plan.launch_teams);
  if (launches > 1) text += Format("; %d launches, one after the other", launches);
  return text;
}

}  // namespace

GpuPlan PlanGpu(const GpuProblem& problem, const GpuFacts& facts, GpuResidency residency) {
  const GpuKernelTraits traits = TraitsOf(problem);
  const auto limit = int64_t{kGpuWarps} * facts.processors * traits.units();
  if (facts.processors == 0) return Refuse("no kernels for this GPU's architecture");
  if (problem.hidden > limit) {
    return Refuse(Format("H = %lld: %d SMs have room for %lld units",
                         static_cast<long long>(problem.hidden), facts.processors,
                         static_cast<long long>(limit)));
  }
  GpuPass in_cluster{}, in_grid{};
  const bool may_cluster = residency != GpuResidency::kGrid && facts.cluster_blocks > 1 &&
                           FitCluster(in_cluster, problem, facts);
  const bool may_grid = residency != GpuResidency::kCluster && FitGrid(in_grid, problem, facts);
  if (!may_cluster && !may_grid) {
    if (residency != GpuResidency::kCluster) {
      return Refuse(
          Format("%d KiB of shared memory a block are too few", facts.shared_bytes >> 10));
    }
    return Refuse(facts.cluster_blocks == 1
                      ? Format("sm_%d has no clusters", facts.architecture)
                      : Format("a cluster of %d blocks doesn't hold the weights of H = %lld",
                               facts.cluster_blocks, static_cast<long long>(problem.hidden)));
  }
  const bool cluster = may_cluster && (!may_grid || StepCycles(in_cluster, problem, facts) <
                                                        StepCycles(in_grid, problem, facts));
  GpuPlan plan{};
  plan.pass = cluster ? in_cluster : in_grid;
  GpuPass& pass = plan.pass;
  plan.runs = true;
  plan.teams = static_cast<int>(problem.groups) * pass.teams_per_group;
  plan.launch_teams = cluster ? plan.teams : std::min(plan.teams, facts.processors / pass.slices);
  const int64_t warps = int64_t{pass.slices} * pass.warps_m * pass.warps_k;
  const int64_t chunk = traits.chunk_quads() * kGpuLanes * kQuadBytes;
  plan.weight_bytes = warps * pass.warp_chunks * chunk;
  plan.streamed_bytes = plan.launch_teams * warps * pass.stream_chunks * chunk;
  if (plan.streamed_bytes > facts.l2_bytes) {
    return Refuse(
        Format("%lld MiB of weights would be read from memory at every step: registers "
               "and shared memory hold the rest, L2 only %lld MiB",
               static_cast<long long>(plan.streamed_bytes >> 20),
               static_cast<long long>(facts.l2_bytes >> 20)));
  }
  const char* farthest = pass.stream_chunks > 0   ? "L2"
                         : pass.shared_chunks > 0 ? "shared memory"
                                                  : "registers";
  plan.residency = std::string(cluster ? "cluster, " : "grid, ") + farthest;
  plan.explanation = Explain(plan, facts);
  return plan;
}

std::optional<GpuResidency> ResidencyOf(std::string_view exchange) {
  if (exchange.empty()) return GpuResidency::kAny;
  if (exchange == "grid" || exchange == "grid-barrier") return GpuResidency::kGrid;
  if (exchange == "cluster") return GpuResidency::kCluster;
  return std::nullopt;
}

GpuFacts GpuOfArchitecture(int architecture) {
  constexpr int64_t kMiB = 1 << 20;
  switch (architecture) {
    case 80: return {80, 108, 163 << 10, 1, 40 * kMiB};      // A100
    case 86: return {86, 82, 99 << 10, 1, 6 * kMiB};         // GeForce RTX 3090
    case 89: return {89, 128, 99 << 10, 1, 72 * kMiB};       // GeForce RTX 4090
    case 90: return {90, 132, 227 << 10, 16, 50 * kMiB};     // H100, H200
    case 100: return {100, 148, 227 << 10, 16, 126 * kMiB};  // B200
    default: return {architecture, 0, 0, 1, 0};
  }
}

}  // namespace jp
