// SPDX-License-Identifier: Apache-2.0
// Every problem on every GPU: a plan that the kernels can follow, or a reason that says what is too
// large. Sizes of memory are counted here as the kernels use it, not as the planner does.
#include "cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "cuda/step_cycles.h"
#include "tests/native/check.h"

namespace {

using jp::CellTraits;
using jp::Part;
using jp::Pass;
using jp::Problem;
using namespace jp::cuda;

constexpr int kArchitectures[] = {80, 86, 89, 90, 100};
constexpr Precision kPrecisions[] = {Precision::kBfloat16, Precision::kFloat16, Precision::kTf32,
                                     Precision::kFloat32};
constexpr int64_t kHidden[] = {1,   5,    64,   255,  256,  512,  640,
                               768, 1000, 1024, 2048, 4096, 9000, 40000};
constexpr int64_t kBatches[] = {1, 3, 8, 9, 64, 500, 5000};
constexpr int64_t kGroups[] = {1, 2, 7};

const CellTraits& Cell(const char* name) { return *jp::FindCell(name); }

// The cells that differ in what the planner sees of them.
std::vector<CellTraits> DifferentCells() {
  std::vector<CellTraits> cells;
  for (const CellTraits& cell : jp::kCells) {
    const bool is_known = std::ranges::any_of(cells, [&](const CellTraits& other) {
      return cell.gates == other.gates && cell.states == other.states &&
             cell.reset_after == other.reset_after;
    });
    if (!is_known) cells.push_back(cell);
  }
  return cells;
}

struct Sizes {
  int64_t hidden, batch = 1, groups = 1;
};

Problem Make(Pass pass, const CellTraits& cell, Precision precision, const Sizes& sizes,
             bool resets = false) {
  Problem p{.pass = pass,
            .cell = cell,
            .groups = sizes.groups,
            .batch = sizes.batch,
            .steps = 10,
            .hidden = sizes.hidden,
            .tf32 = precision == Precision::kTf32};
  if (precision == Precision::kBfloat16) p.dtype = jp::DType::kBfloat16;
  if (precision == Precision::kFloat16) p.dtype = jp::DType::kFloat16;
  p.Add(pass == Pass::kForward ? Part::input_gates : Part::d_gates);
  if (pass == Pass::kBackward && cell.reset_after) p.Add(Part::d_recurrent_gates);
  if (resets) p.Add(Part::resets).Add(Part::reset_state).Add(Part::lengths);
  return p;
}

Problem Forward(const char* cell, Precision precision, int64_t hidden, int64_t batch = 1) {
  return Make(Pass::kForward, Cell(cell), precision, {hidden, batch});
}

Precision PrecisionOf(const Problem& p) {
  if (p.dtype == jp::DType::kBfloat16) return Precision::kBfloat16;
  if (p.dtype == jp::DType::kFloat16) return Precision::kFloat16;
  return p.tf32 ? Precision::kTf32 : Precision::kFloat32;
}

KernelTraits Traits(const Problem& p, int width) {
  return TraitsOf(p.pass, p.cell.gates, p.cell.states, PrecisionOf(p), width);
}

// What a failed check prints of its case.
struct Label {
  const Problem& p;
  const DeviceFacts& facts;
  Exchange exchange;

  friend std::ostream& operator<<(std::ostream& out, const Label& label) {
    constexpr const char* kNames[] = {"bfloat16", "float16", "tf32", "float32"};
    constexpr const char* kExchanges[] = {"any", "grid", "grid-barrier", "cluster"};
    const Problem& p = label.p;
    return out << p.cell.name << (p.pass == Pass::kBackward ? " backward " : " forward ")
               << kNames[static_cast<int>(PrecisionOf(p))] << " H=" << p.hidden << " B=" << p.batch
               << " N=" << p.groups << " sm_" << label.facts.architecture << " "
               << kExchanges[static_cast<int>(label.exchange)];
  }
};

// One part of a block's shared memory.
struct Region {
  const char* name;
  int64_t first, bytes, alignment;
};

// Parts in the order in which they lie: aligned, none over another, all within the block's.
void CheckRegions(std::initializer_list<Region> regions, const Geometry& g, const Label& name) {
  int64_t end = 0;
  for (const Region& r : regions) {
    if (r.bytes == 0) continue;
    CHECK(r.first >= end, name, r.name, r.first, end);
    CHECK(r.first % r.alignment == 0, name, r.name, r.first);
    end = r.first + r.bytes;
  }
  CHECK(end <= g.shared_bytes, name, end, g.shared_bytes);
}

int64_t ChunkBytes(const KernelTraits& traits) {  // weights of a warp's lanes, 16 bytes a vector
  return int64_t{traits.gates} * traits.units() * kChunkBytes;
}

void CheckSharedMemory(const Geometry& g, const KernelTraits& traits, const Problem& p,
                       const Label& name) {
  constexpr int64_t kFloat = 4, kVector = 16;
  const int64_t warps = g.warps_m * g.warps_k, tiles = g.tiles_per_team;
  const int64_t pairs = traits.slots() * kLanes;
  const int64_t states = tiles * g.warps_m * pairs / g.cut * traits.states * kFloat;
  const bool wants_reset_sums = p.pass == Pass::kBackward && p.has(Part::reset_state);
  CheckRegions(
      {
          {"partial sums", 0, 2 * warps * pairs * traits.gates * kFloat, kVector},
          {"states", g.states, states, kVector},
          {"reset sums", g.reset_sums, wants_reset_sums ? states : 0, kVector},
          {"stage", g.stage,
           PrecisionOf(p) == Precision::kFloat32 ? 2 * warps * kLanes * kVector : 0, kVector},
          {"messages", g.messages, 2 * tiles * kTileRows * g.message_pitch, kVector},
          {"sums", g.sums, g.cut > 1 ? 2 * tiles * pairs * kFloat : 0, kVector},
          {"barriers", g.barriers, g.cluster() || g.cut > 1 ? 2 * tiles * 8 : 0, 8},
          {"ends", g.ends, p.has(Part::lengths) ? tiles * 4 : 0, 4},
          {"weights", g.weights,
           warps * std::max(1, g.shared_chunks) * traits.chunk_vectors() * kLanes * kVector,
           kVector},
      },
      g, name);
}

void CheckUnitsAndDepth(const Geometry& g, const KernelTraits& traits, const Problem& p,
                        const Label& name) {
  const int64_t bytes = ElementBytes(PrecisionOf(p));
  CHECK(g.warps_m >= 1 && g.warps_k >= 1 && g.threads() <= 256, name, g.threads());
  CHECK(g.threads() % kLanes == 0, name);
  CHECK(g.unit_blocks * traits.units() >= p.hidden, name, g.unit_blocks);
  CHECK((g.unit_blocks - 1) * traits.units() < p.hidden, name, g.unit_blocks);
  // Every unit block has one block of the team, and no block that receives is without one.
  CHECK(g.receivers * g.warps_m >= g.unit_blocks * g.cut, name, g.receivers);
  CHECK((g.receivers - g.cut) * g.warps_m < g.unit_blocks * g.cut, name, g.receivers);
  CHECK(g.blocks_per_team >= g.receivers, name, g.blocks_per_team, g.receivers);
  CHECK(g.senders == g.unit_blocks * g.cut * std::min(traits.slots() / g.cut, g.warps_k), name);
  // A row of a message, its segments readable 16 bytes at a time, and in a cluster all written.
  CHECK(g.segment >= p.hidden && g.segment * bytes % 16 == 0, name, g.segment);
  CHECK(g.segment * bytes < p.hidden * bytes + 16 || g.cluster(), name, g.segment);
  CHECK(!g.cluster() || g.segment == g.unit_blocks * traits.units(), name, g.segment);
  const int64_t row_bytes = traits.segments * g.segment * bytes;
  CHECK(int64_t{g.chunks} * kChunkBytes >= row_bytes, name, g.chunks);
  CHECK(int64_t{g.chunks - 1} * kChunkBytes < row_bytes, name, g.chunks);
  CHECK(g.cut * g.block_chunks >= g.chunks && g.cut * (g.block_chunks - 1) < g.chunks, name,
        g.block_chunks);
  CHECK(g.warps_k * g.warp_chunks >= g.block_chunks, name, g.warp_chunks);
  CHECK(g.warps_k * (g.warp_chunks - 1) < g.block_chunks, name, g.warp_chunks);
  // Those who share K are one cluster, in which each has a part of the units, 16 at a time.
  CHECK(g.cut == 1 || (p.pass == Pass::kBackward && !g.cluster() && g.warps_m == 1), name, g.cut);
  CHECK(g.width % g.cut == 0 && g.blocks_per_team % g.cut == 0, name, g.cut, g.width);
}

// A warp's chunks: registers first, then shared memory as far as it goes, then L2.
void CheckWeights(const KernelPlan& plan, const KernelTraits& traits, const DeviceFacts& facts,
                  const Label& name) {
  const Geometry& g = plan.geometry;
  const int in_registers = std::min(g.warp_chunks, traits.register_chunks);
  CHECK(g.shared_chunks >= 0 && g.stream_chunks >= 0, name);
  CHECK(in_registers + g.shared_chunks + g.stream_chunks == g.warp_chunks, name, g.shared_chunks,
        g.stream_chunks);
  CHECK(g.shared_bytes <= facts.shared_bytes, name, g.shared_bytes);
  const int64_t warps = g.warps_m * g.warps_k, chunk = ChunkBytes(traits);
  CHECK(g.stream_chunks == 0 || g.shared_bytes + warps * chunk > facts.shared_bytes, name);
  CHECK(plan.weight_bytes == g.blocks_per_team * warps * g.warp_chunks * chunk, name);
  CHECK(plan.streamed_bytes ==
            plan.launch_teams * g.blocks_per_team * warps * g.stream_chunks * chunk,
        name, plan.streamed_bytes);
  CHECK(plan.streamed_bytes <= facts.l2_bytes, name, plan.streamed_bytes);
  const std::string farthest = g.stream_chunks   ? "L2"
                               : g.shared_chunks ? "shared memory"
                                                 : "registers";
  CHECK(Residency(plan) == (g.cluster() ? "cluster, " : "grid, ") + farthest, name,
        Residency(plan));
}

void CheckTeams(const KernelPlan& plan, const Problem& p, const DeviceFacts& facts,
                const Label& name) {
  const Geometry& g = plan.geometry;
  const int64_t rows = int64_t{g.tiles_per_team} * kTileRows;
  CHECK(g.first_team == 0, name);
  CHECK(plan.teams == p.groups * g.teams_per_group, name, plan.teams);
  CHECK(g.teams_per_group * rows >= p.batch, name, g.teams_per_group);
  CHECK((g.teams_per_group - 1) * rows < p.batch, name, g.teams_per_group);
  // As many threads as a block has set up two barriers a tile.
  CHECK(g.tiles_per_team >= 1 && 2 * g.tiles_per_team <= kLanes, name);
  CHECK(plan.launch_teams >= 1 && plan.launch_teams <= plan.teams, name, plan.launch_teams);
  if (!g.cluster()) {  // blocks of a launch wait for each other: all must be there
    CHECK(plan.launch_teams * g.blocks_per_team <= facts.processors, name, plan.launch_teams);
    CHECK(g.message_pitch == 0, name);
    CHECK(g.cut <= facts.cluster_blocks, name, g.cut);
    return;
  }
  CHECK(plan.launch_teams == plan.teams, name, plan.launch_teams);
  CHECK(g.blocks_per_team >= 2 && g.blocks_per_team <= facts.cluster_blocks, name,
        g.blocks_per_team);
  CHECK((g.blocks_per_team & (g.blocks_per_team - 1)) == 0, name, g.blocks_per_team);
  CHECK(g.stream_chunks == 0, name);
  CHECK(g.message_pitch >= g.chunks * kChunkBytes, name, g.message_pitch);
  CHECK(g.message_pitch % (2 * kChunkBytes) == kChunkBytes, name);
  CHECK(kTileRows * g.message_pitch < 1 << 20, name);  // what one barrier can count
}

void CheckPlan(const Problem& p, const DeviceFacts& facts, Exchange exchange,
               const KernelPlan& plan) {
  const Label name{p, facts, exchange};
  if (!plan.runs()) {
    CHECK(plan.refusal.find_first_of("0123456789") != std::string::npos, name, plan.refusal);
    return;
  }
  const KernelTraits traits = Traits(p, plan.geometry.width);
  const Exchange made = plan.geometry.exchange;
  CHECK(made != Exchange::kAny && (exchange == Exchange::kAny || made == exchange), name);
  CheckUnitsAndDepth(plan.geometry, traits, p, name);
  CheckSharedMemory(plan.geometry, traits, p, name);
  CheckWeights(plan, traits, facts, name);
  CheckTeams(plan, p, facts, name);
}

bool IsSame(const KernelPlan& a, const KernelPlan& b) {
  return a.refusal == b.refusal && std::memcmp(&a.geometry, &b.geometry, sizeof a.geometry) == 0;
}

void CheckExchanges(const Problem& p, const DeviceFacts& facts) {
  const KernelPlan any = PlanKernel(p, facts, Exchange::kAny);
  const KernelPlan grid = PlanKernel(p, facts, Exchange::kGridData);
  const KernelPlan cluster = PlanKernel(p, facts, Exchange::kCluster);
  CheckPlan(p, facts, Exchange::kAny, any);
  CheckPlan(p, facts, Exchange::kGridData, grid);
  CheckPlan(p, facts, Exchange::kCluster, cluster);
  for (const int width : kWidths) {
    for (const int cut : {1, 2}) {
      const KernelPlan told = PlanKernel(p, facts, Exchange::kGridData, width, cut);
      CheckPlan(p, facts, Exchange::kGridData, told);
      CHECK(!told.runs() || (told.geometry.width == width && told.geometry.cut == cut), width, cut);
    }
  }
  const Label name{p, facts, Exchange::kAny};
  CHECK(any.runs() == (grid.runs() || cluster.runs()), name, any.refusal, grid.refusal);
  CHECK(IsSame(any, grid) || IsSame(any, cluster), name, any.refusal);
  KernelPlan barrier = PlanKernel(p, facts, Exchange::kGridBarrier);
  CHECK(!barrier.runs() || barrier.geometry.exchange == Exchange::kGridBarrier, name);
  barrier.geometry.exchange = grid.geometry.exchange;
  barrier.geometry.fetches_ahead = grid.geometry.fetches_ahead;
  CHECK(IsSame(barrier, grid), name, barrier.refusal);
}

void TestEveryProblemOnEveryGpu() {
  for (int architecture : kArchitectures) {
    const DeviceFacts facts = FactsOfArchitecture(architecture);
    for (const CellTraits& cell : DifferentCells()) {
      for (Pass pass : {Pass::kForward, Pass::kBackward}) {
        for (Precision precision : kPrecisions) {
          for (int64_t hidden : kHidden) {
            for (int64_t batch : kBatches) {
              for (int64_t groups : kGroups) {
                const bool resets = (hidden + batch + groups) % 2 == 0;
                CheckExchanges(Make(pass, cell, precision, {hidden, batch, groups}, resets), facts);
              }
            }
          }
        }
      }
    }
  }
}

void TestPartsOfAGpu() {
  for (int processors : {1, 2, 7, 16}) {
    DeviceFacts facts = FactsOfArchitecture(90);
    facts.processors = processors;
    for (const CellTraits& cell : DifferentCells()) {
      for (int64_t hidden : {5, 64, 640}) {
        CheckExchanges(Make(Pass::kForward, cell, Precision::kBfloat16, {hidden, 500, 2}), facts);
        CheckExchanges(Make(Pass::kBackward, cell, Precision::kFloat32, {hidden, 3}), facts);
      }
    }
  }
}

// For the cells there are, and for those that may come.
void TestKernelsFitARegisterFile() {
  for (Pass pass : {Pass::kForward, Pass::kBackward}) {
    for (Precision precision : kPrecisions) {
      for (int gates = 1; gates <= 6; ++gates) {
        const KernelTraits t = TraitsOf(pass, gates, 2, precision);
        // Of the 255 registers that a thread of 256 can have, half for weights.
        const int registers = t.register_chunks * t.chunk_vectors() * 4;
        CHECK(registers > 64 && registers <= 128, gates, registers);
        CHECK(16 * t.tiles() == t.gates * t.units(), gates, t.tiles());
        CHECK(t.slots() * kLanes == t.units() * kTileRows, gates, t.slots());
        CHECK(t.chunk_vectors() * kLanes * 16 == ChunkBytes(t), gates, t.chunk_vectors());
      }
    }
  }
  // What the kernels of an LSTM, a GRU and an Elman network have had from the beginning.
  const auto chunks = [](Pass pass, int gates, Precision precision) {
    return TraitsOf(pass, gates, 1, precision).register_chunks;
  };
  CHECK(chunks(Pass::kForward, 4, Precision::kBfloat16) == 8);
  CHECK(chunks(Pass::kForward, 3, Precision::kBfloat16) == 4);
  CHECK(chunks(Pass::kForward, 1, Precision::kFloat32) == 16);
  CHECK(chunks(Pass::kBackward, 4, Precision::kBfloat16) == 16);
  CHECK(chunks(Pass::kBackward, 4, Precision::kFloat32) == 14);
}

struct Expected {
  const char* residency;
  int blocks, warps_m, warps_k, warp_chunks;
};

void CheckGeometry(int architecture, const Problem& p, Exchange exchange, const Expected& e) {
  const DeviceFacts facts = FactsOfArchitecture(architecture);
  const Label name{p, facts, exchange};
  const KernelPlan plan = PlanKernel(p, facts, exchange);
  const Geometry& g = plan.geometry;
  CHECK(plan.runs() && Residency(plan) == e.residency, name, plan.refusal, Residency(plan));
  CHECK(g.blocks_per_team == e.blocks, name, g.blocks_per_team);
  CHECK(g.warps_m == e.warps_m && g.warps_k == e.warps_k, name, g.warps_m, g.warps_k);
  CHECK(g.warp_chunks == e.warp_chunks, name, g.warp_chunks);
}

void TestGeometries() {
  const auto kBf16 = Precision::kBfloat16;
  const auto any = Exchange::kAny, grid = Exchange::kGridData, cluster = Exchange::kCluster;
  // 64 unit blocks: one a block, with 16 chunks over 8 warps; or four on each of a cluster's 16,
  // with 16 chunks over the two warps of each.
  CheckGeometry(80, Forward("lstm", kBf16, 512), any, {"grid, registers", 64, 1, 8, 2});
  CheckGeometry(90, Forward("lstm", kBf16, 512), grid, {"grid, registers", 64, 1, 8, 2});
  CheckGeometry(90, Forward("lstm", kBf16, 512), cluster, {"cluster, registers", 16, 4, 2, 8});
  CheckGeometry(90, Forward("lstm", kBf16, 512), any, {"cluster, registers", 16, 4, 2, 8});
  CheckGeometry(100, Forward("lstm", kBf16, 512), any, {"cluster, registers", 16, 4, 2, 8});
  // 128 unit blocks: one each on 132 SMs, two each on 108; 32 chunks over 8 warps, over 4.
  CheckGeometry(90, Forward("lstm", kBf16, 1024), any, {"grid, registers", 128, 1, 8, 4});
  CheckGeometry(80, Forward("lstm", kBf16, 1024), any, {"grid, registers", 64, 2, 4, 8});
  // 128 unit blocks of twice the width: one each on 132 SMs; 64 chunks over 8 warps, of which 4 are
  // in registers.
  CheckGeometry(90, Forward("lstm", kBf16, 2048), any, {"grid, shared memory", 128, 1, 8, 8});
  // A small problem needs few blocks; but st.async wants a cluster of two at least.
  CheckGeometry(90, Forward("elman_tanh", kBf16, 64), any, {"cluster, registers", 4, 1, 2, 1});
  CheckGeometry(90, Forward("elman_tanh", kBf16, 16), any, {"cluster, registers", 2, 1, 1, 1});
}

void TestBatches() {
  const DeviceFacts h100 = FactsOfArchitecture(90);
  const auto plan = [&](int64_t groups, int64_t batch, Exchange exchange) {
    return PlanKernel(
        Make(Pass::kForward, Cell("lstm"), Precision::kBfloat16, {512, batch, groups}), h100,
        exchange);
  };
  // 132 SMs hold two teams of 64 blocks with 8 of 16 tiles each, or, with four unit blocks on each,
  // eight of 16 with two tiles, as the model prefers, of half as many and twice as wide; or sixteen
  // clusters of 8.
  const Geometry grid = plan(1, 128, Exchange::kGridData).geometry;
  CHECK(grid.warps_m == 2 && grid.width == 2 && grid.blocks_per_team == 16, grid.warps_m);
  CHECK(grid.tiles_per_team == 2, grid.tiles_per_team);
  const KernelPlan clusters = plan(1, 128, Exchange::kCluster);
  CHECK(clusters.geometry.blocks_per_team == 8 && clusters.teams == 16, Explain(clusters, h100));
  CHECK(plan(1, 8, Exchange::kCluster).teams == 1);
  // A team takes 16 tiles at most; the teams that find no SMs wait for the launch before.
  const KernelPlan large = plan(3, 5000, Exchange::kGridData);
  CHECK(large.geometry.tiles_per_team == 16 && large.teams == 120, large.teams);
  CHECK(large.launch_teams == 8, large.launch_teams);
  CHECK(Explain(large, h100).find("15 launches, one after the other") != std::string::npos,
        Explain(large, h100));
  // What a place's fill has brought into L2 has left it when a long sequence comes to it.
  Problem wide = Forward("lstm", Precision::kBfloat16, 1024, 64);  // 1.3 MiB a step
  for (int64_t steps : {39, 41}) {
    wide.steps = steps;
    const auto fetches = [&](Exchange exchange) {
      return PlanKernel(wide, h100, exchange).geometry.fetches_ahead != 0;
    };
    CHECK(fetches(Exchange::kGridData) == (steps > 40), steps);
    CHECK(!fetches(Exchange::kGridBarrier), steps);
  }
  // A launch may be quicker than another kind's and still lose, for there are more of them.
  CHECK(plan(1, 5000, Exchange::kAny).geometry.cluster());
}

// The cycle model, by the figures that benchmarks/cycles.py comes to.
void TestStepCycles() {
  const DeviceFacts h100 = FactsOfArchitecture(90);
  struct Known {
    Pass pass;
    const char* cell;
    Precision precision;
    int64_t hidden, batch;
    Exchange exchange;
    double cycles;
  };
  for (const Known& known :
       {Known{Pass::kForward, "lstm", Precision::kBfloat16, 1024, 1, Exchange::kGridData, 1661.50},
        {Pass::kBackward, "lstm", Precision::kBfloat16, 512, 8, Exchange::kCluster, 4186.42},
        {Pass::kForward, "lstm", Precision::kBfloat16, 512, 64, Exchange::kGridData, 1870.17},
        {Pass::kBackward, "lstm", Precision::kBfloat16, 1024, 64, Exchange::kGridData, 5495.86},
        {Pass::kForward, "lstm", Precision::kFloat32, 1536, 4, Exchange::kGridData, 6765.68},
        {Pass::kForward, "gru", Precision::kFloat32, 1024, 5, Exchange::kGridData, 3607.00},
        {Pass::kBackward, "gru", Precision::kFloat32, 512, 5, Exchange::kGridData, 3415.00},
        {Pass::kBackward, "elman_tanh", Precision::kFloat16, 1024, 64, Exchange::kGridData,
         1833.35}}) {
    const Problem p =
        Make(known.pass, Cell(known.cell), known.precision, {known.hidden, known.batch});
    const KernelPlan plan = PlanKernel(p, h100, known.exchange);
    const double cycles =
        StepCycles(plan.geometry,
                   {p, plan.precision, Traits(p, plan.geometry.width), h100.processors})
            .Total();
    CHECK(std::abs(cycles - known.cycles) < 0.01, (Label{p, h100, known.exchange}), cycles);
  }
}

void CheckRefused(const Problem& p, const DeviceFacts& facts, Exchange exchange,
                  const std::string& says) {
  const KernelPlan plan = PlanKernel(p, facts, exchange);
  CHECK(!plan.runs() && plan.refusal.find(says) != std::string::npos, plan.refusal, says);
}

void TestRefusals() {
  const DeviceFacts a100 = FactsOfArchitecture(80), h100 = FactsOfArchitecture(90);
  const auto kBf16 = Precision::kBfloat16;
  const auto any = Exchange::kAny, cluster = Exchange::kCluster;
  CheckRefused(Forward("lstm", kBf16, 40000), h100, any,
               "H = 40000: 132 SMs have room for 8448 units");
  CheckRefused(Forward("lstm", kBf16, 512), a100, cluster, "sm_80 has no clusters");
  CheckRefused(Forward("lstm", kBf16, 2048), h100, cluster,
               "a cluster of 16 blocks doesn't hold the weights of H = 2048");
  CheckRefused(Forward("lstm", Precision::kFloat32, 8192), h100, any, "L2 only 50 MiB");
  CheckRefused(Forward("lstm", Precision::kFloat32, 2048), FactsOfArchitecture(86), any,
               "L2 only 6 MiB");
  DeviceFacts small = a100;
  small.shared_bytes = 16 << 10;
  CheckRefused(Forward("lstm", kBf16, 512), small, any, "16 KiB of shared memory a block");
  for (int architecture : {0, 70, 75}) {
    const DeviceFacts facts = FactsOfArchitecture(architecture);
    CheckRefused(Forward("lstm", kBf16, 512), facts, any, "no kernels for this GPU's architecture");
  }
  Problem wide = Forward("lstm", kBf16, 512);
  wide.dtype = jp::DType::kFloat64;
  CheckRefused(wide, h100, any, "no cuda kernel for float64; there is one for float32");
  Problem chunk = Forward("lstm", kBf16, 512);
  CheckRefused(chunk.Add(Part::chunked), h100, any, "no states in float32 (chunked) of 16 bits");
  Problem gru = Make(Pass::kBackward, Cell("gru"), kBf16, {512});
  gru.parts = 0;
  CheckRefused(gru.Add(Part::d_gates), h100, any, "(d_recurrent_gates)");
}

void TestNamesOfExchanges() {
  CHECK(ExchangeOf("") == Exchange::kAny);
  CHECK(ExchangeOf("grid") == Exchange::kGridData);
  CHECK(ExchangeOf("grid-barrier") == Exchange::kGridBarrier);
  CHECK(ExchangeOf("cluster") == Exchange::kCluster);
  CHECK(!ExchangeOf("barrier") && !ExchangeOf("Grid"));
}

}  // namespace

int main() {
  TestEveryProblemOnEveryGpu();
  TestPartsOfAGpu();
  TestKernelsFitARegisterFile();
  TestGeometries();
  TestBatches();
  TestStepCycles();
  TestRefusals();
  TestNamesOfExchanges();
  return jp::test::Finish("gpu plan");
}
