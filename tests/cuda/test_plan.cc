// Every problem on every GPU: a plan that the kernels can follow, or a reason that says what is too
// large. Sizes of memory are counted here as the kernels use it, not as the planner does.
#include "cuda/plan.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "tests/native/check.h"

namespace {

using jp::CellTraits;
using jp::DeviceFacts;
using jp::KernelTraits;
using jp::Precision;
using jp::FactsOfArchitecture;
using jp::Geometry;
using jp::KernelPlan;
using jp::GpuProblem;
using jp::GpuResidency;
using jp::PlanKernel;

constexpr int kArchitectures[] = {80, 86, 89, 90, 100};
constexpr Precision kNumbers[] = {Precision::kBfloat16, Precision::kFloat16, Precision::kTf32,
                                  Precision::kFloat32};
constexpr int64_t kHidden[] = {1,   5,    64,   255,  256,  512,  640,
                               768, 1000, 1024, 2048, 4096, 9000, 40000};
constexpr int64_t kBatches[] = {1, 3, 8, 9, 64, 500, 5000};
constexpr int64_t kGroups[] = {1, 2, 7};

const CellTraits& Cell(const char* name) { return *jp::FindCell(name); }

GpuProblem Forward(const char* cell, Precision number, int64_t hidden, int64_t batch = 1) {
  return {Cell(cell), false, number, 1, batch, hidden};
}

std::string Name(const GpuProblem& p, const DeviceFacts& facts, GpuResidency residency) {
  constexpr const char* kNames[] = {"bfloat16", "float16", "tf32", "float32"};
  constexpr const char* kResidencies[] = {"any", "grid", "cluster"};
  return std::string(p.cell.name) + (p.backward ? " backward " : " forward ") +
         kNames[static_cast<int>(p.number)] + " H=" + std::to_string(p.hidden) +
         " B=" + std::to_string(p.batch) + " N=" + std::to_string(p.groups) + " sm_" +
         std::to_string(facts.architecture) + " " + kResidencies[static_cast<int>(residency)];
}

// One part of a block's shared memory.
struct Region {
  const char* name;
  int64_t first, bytes, alignment;
};

// Parts in the order in which they lie: aligned, none over another, all within the block's.
void CheckRegions(std::initializer_list<Region> regions, const Geometry& pass,
                  const std::string& name) {
  int64_t end = 0;
  for (const Region& r : regions) {
    if (r.bytes == 0) continue;
    CHECK(r.first >= end, name, r.name, r.first, end);
    CHECK(r.first % r.alignment == 0, name, r.name, r.first);
    end = r.first + r.bytes;
  }
  CHECK(end <= pass.shared_bytes, name, end, pass.shared_bytes);
}

int64_t ChunkBytes(const KernelTraits& traits) {  // weights of a warp's lanes, 16 bytes a vector
  return int64_t{traits.gates} * traits.units() * jp::kChunkBytes;
}

void CheckSharedMemory(const Geometry& pass, const KernelTraits& traits, const GpuProblem& p,
                       const std::string& name) {
  constexpr int64_t kFloat = 4, kQuad = 16, kLanes = jp::kLanes;
  const int64_t warps = pass.warps_m * pass.warps_k, tiles = pass.tiles_per_team;
  const int64_t pairs = traits.slots() * kLanes;
  CheckRegions(
      {
          {"partial sums", 0, 2 * warps * pairs * traits.gates * kFloat, kQuad},
          {"states", pass.states, tiles * pass.warps_m * pairs * traits.states * kFloat, kQuad},
          {"stage", pass.stage, p.number == Precision::kFloat32 ? 2 * warps * kLanes * kQuad : 0,
           kQuad},
          {"messages", pass.messages, 2 * tiles * jp::kTileRows * pass.message_pitch, kQuad},
          {"barriers", pass.barriers, pass.cluster ? 2 * tiles * 8 : 0, 8},
          {"weights", pass.weights,
           warps * std::max(1, pass.shared_chunks) * traits.chunk_vectors() * kLanes * kQuad, kQuad},
      },
      pass, name);
}

void CheckUnitsAndDepth(const Geometry& pass, const KernelTraits& traits, const GpuProblem& p,
                        const std::string& name) {
  const int64_t bytes = jp::ElementBytes(p.number);
  CHECK(pass.warps_m >= 1 && pass.warps_k >= 1 && pass.threads() <= 256, name, pass.threads());
  CHECK(pass.threads() % jp::kLanes == 0, name);
  CHECK(pass.unit_blocks * traits.units() >= p.hidden, name, pass.unit_blocks);
  CHECK((pass.unit_blocks - 1) * traits.units() < p.hidden, name, pass.unit_blocks);
  // Every unit block has one block of the team, and no block that receives is without one.
  CHECK(pass.receivers * pass.warps_m >= pass.unit_blocks, name, pass.receivers);
  CHECK((pass.receivers - 1) * pass.warps_m < pass.unit_blocks, name, pass.receivers);
  CHECK(pass.blocks_per_team >= pass.receivers, name, pass.blocks_per_team, pass.receivers);
  CHECK(pass.senders == pass.unit_blocks * std::min(traits.slots(), pass.warps_k), name);
  // A row of a message, its segments readable 16 bytes at a time, and in a cluster all written.
  CHECK(pass.segment >= p.hidden && pass.segment * bytes % 16 == 0, name, pass.segment);
  CHECK(pass.segment * bytes < p.hidden * bytes + 16 || pass.cluster, name, pass.segment);
  CHECK(!pass.cluster || pass.segment == pass.unit_blocks * traits.units(), name, pass.segment);
  const int64_t row_bytes = traits.segments * pass.segment * bytes;
  CHECK(int64_t{pass.chunks} * jp::kChunkBytes >= row_bytes, name, pass.chunks);
  CHECK(int64_t{pass.chunks - 1} * jp::kChunkBytes < row_bytes, name, pass.chunks);
  CHECK(pass.warps_k * pass.warp_chunks >= pass.chunks, name, pass.warp_chunks);
  CHECK(pass.warps_k * (pass.warp_chunks - 1) < pass.chunks, name, pass.warp_chunks);
}

// A warp's chunks: registers first, then shared memory as far as it goes, then L2.
void CheckWeights(const KernelPlan& plan, const KernelTraits& traits, const DeviceFacts& facts,
                  const std::string& name) {
  const Geometry& pass = plan.pass;
  const int in_registers = std::min(pass.warp_chunks, traits.register_chunks);
  CHECK(pass.shared_chunks >= 0 && pass.stream_chunks >= 0, name);
  CHECK(in_registers + pass.shared_chunks + pass.stream_chunks == pass.warp_chunks, name,
        pass.shared_chunks, pass.stream_chunks);
  CHECK(pass.shared_bytes <= facts.shared_bytes, name, pass.shared_bytes);
  const int64_t warps = pass.warps_m * pass.warps_k, chunk = ChunkBytes(traits);
  CHECK(pass.stream_chunks == 0 || pass.shared_bytes + warps * chunk > facts.shared_bytes, name);
  CHECK(plan.weight_bytes == pass.blocks_per_team * warps * pass.warp_chunks * chunk, name);
  CHECK(plan.streamed_bytes == plan.launch_teams * pass.blocks_per_team * warps * pass.stream_chunks * chunk,
        name, plan.streamed_bytes);
  CHECK(plan.streamed_bytes <= facts.l2_bytes, name, plan.streamed_bytes);
  const std::string farthest = pass.stream_chunks   ? "L2"
                               : pass.shared_chunks ? "shared memory"
                                                    : "registers";
  CHECK(plan.residency == (pass.cluster ? "cluster, " : "grid, ") + farthest, name, plan.residency);
}

void CheckTeams(const KernelPlan& plan, const GpuProblem& p, const DeviceFacts& facts,
                const std::string& name) {
  const Geometry& pass = plan.pass;
  const int64_t rows = int64_t{pass.tiles_per_team} * jp::kTileRows;
  CHECK(pass.first_team == 0, name);
  CHECK(plan.teams == p.groups * pass.teams_per_group, name, plan.teams);
  CHECK(pass.teams_per_group * rows >= p.batch, name, pass.teams_per_group);
  CHECK((pass.teams_per_group - 1) * rows < p.batch, name, pass.teams_per_group);
  // As many threads as a block has set up two barriers a tile.
  CHECK(pass.tiles_per_team >= 1 && 2 * pass.tiles_per_team <= jp::kLanes, name);
  CHECK(plan.launch_teams >= 1 && plan.launch_teams <= plan.teams, name, plan.launch_teams);
  if (!pass.cluster) {  // blocks of a launch wait for each other: all must be there
    CHECK(plan.launch_teams * pass.blocks_per_team <= facts.processors, name, plan.launch_teams);
    CHECK(pass.message_pitch == 0, name);
    return;
  }
  CHECK(plan.launch_teams == plan.teams, name, plan.launch_teams);
  CHECK(pass.blocks_per_team >= 2 && pass.blocks_per_team <= facts.cluster_blocks, name, pass.blocks_per_team);
  CHECK((pass.blocks_per_team & (pass.blocks_per_team - 1)) == 0, name, pass.blocks_per_team);
  CHECK(pass.stream_chunks == 0, name);
  CHECK(pass.message_pitch >= pass.chunks * jp::kChunkBytes, name, pass.message_pitch);
  CHECK(pass.message_pitch % (2 * jp::kChunkBytes) == jp::kChunkBytes, name);
  CHECK(jp::kTileRows * pass.message_pitch < 1 << 20, name);  // what one barrier can count
}

void CheckPlan(const GpuProblem& p, const DeviceFacts& facts, GpuResidency residency) {
  const std::string name = Name(p, facts, residency);
  const KernelPlan plan = PlanKernel(p, facts, residency);
  CHECK(!plan.explanation.empty(), name);
  if (!plan.runs) {
    CHECK(plan.explanation.find_first_of("0123456789") != std::string::npos, name,
          plan.explanation);
    return;
  }
  const KernelTraits traits = p.backward
                                     ? jp::BackwardTraits(p.cell.gates, p.cell.states, p.number)
                                     : jp::ForwardTraits(p.cell.gates, p.cell.states, p.number);
  CHECK(residency == GpuResidency::kAny || plan.pass.cluster == (residency != GpuResidency::kGrid),
        name);
  CheckUnitsAndDepth(plan.pass, traits, p, name);
  CheckSharedMemory(plan.pass, traits, p, name);
  CheckWeights(plan, traits, facts, name);
  CheckTeams(plan, p, facts, name);
}

void CheckResidencies(const GpuProblem& p, const DeviceFacts& facts) {
  for (auto residency : {GpuResidency::kAny, GpuResidency::kGrid, GpuResidency::kCluster}) {
    CheckPlan(p, facts, residency);
  }
  const KernelPlan any = PlanKernel(p, facts, GpuResidency::kAny);
  const KernelPlan grid = PlanKernel(p, facts, GpuResidency::kGrid);
  const KernelPlan cluster = PlanKernel(p, facts, GpuResidency::kCluster);
  const std::string name = Name(p, facts, GpuResidency::kAny);
  CHECK(any.runs == (grid.runs || cluster.runs), name, any.explanation, grid.explanation);
  CHECK(any.explanation == grid.explanation || any.explanation == cluster.explanation, name,
        any.explanation);
}

void TestEveryProblemOnEveryGpu() {
  for (int architecture : kArchitectures) {
    const DeviceFacts facts = FactsOfArchitecture(architecture);
    for (const CellTraits& cell : jp::kCells) {
      for (bool backward : {false, true}) {
        for (Precision number : kNumbers) {
          for (int64_t hidden : kHidden) {
            for (int64_t batch : kBatches) {
              for (int64_t groups : kGroups) {
                CheckResidencies({cell, backward, number, groups, batch, hidden}, facts);
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
    for (const CellTraits& cell : jp::kCells) {
      for (int64_t hidden : {5, 64, 640}) {
        CheckResidencies({cell, false, Precision::kBfloat16, 2, 500, hidden}, facts);
        CheckResidencies({cell, true, Precision::kFloat32, 1, 3, hidden}, facts);
      }
    }
  }
}

void TestKernelsFitARegisterFile() {
  for (const CellTraits& cell : jp::kCells) {
    for (Precision number : kNumbers) {
      for (const KernelTraits& t : {jp::ForwardTraits(cell.gates, cell.states, number),
                                       jp::BackwardTraits(cell.gates, cell.states, number)}) {
        // Of the 255 registers that a thread of 256 can have, half for weights.
        CHECK(t.register_chunks * t.chunk_vectors() * 4 <= 128, cell.name, t.register_chunks);
        CHECK(16 * t.tiles() == t.gates * t.units(), cell.name, t.tiles());
        CHECK(t.slots() * jp::kLanes == t.units() * jp::kTileRows, cell.name, t.slots());
        CHECK(t.chunk_vectors() * jp::kLanes * 16 == ChunkBytes(t), cell.name, t.chunk_vectors());
      }
    }
  }
}

struct Expected {
  const char* residency;
  int blocks_per_team, warps_m, warps_k, warp_chunks;
};

void CheckGeometry(int architecture, const GpuProblem& p, GpuResidency residency,
                   const Expected& e) {
  const DeviceFacts facts = FactsOfArchitecture(architecture);
  const std::string name = Name(p, facts, residency);
  const KernelPlan plan = PlanKernel(p, facts, residency);
  const Geometry& pass = plan.pass;
  CHECK(plan.runs && plan.residency == e.residency, name, plan.residency, plan.explanation);
  CHECK(pass.blocks_per_team == e.blocks_per_team, name, pass.blocks_per_team);
  CHECK(pass.warps_m == e.warps_m && pass.warps_k == e.warps_k, name, pass.warps_m, pass.warps_k);
  CHECK(pass.warp_chunks == e.warp_chunks, name, pass.warp_chunks);
}

void TestGeometries() {
  const auto kBf16 = Precision::kBfloat16;
  const auto any = GpuResidency::kAny, grid = GpuResidency::kGrid, cluster = GpuResidency::kCluster;
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
  // 256 unit blocks: two each on 132 SMs; 64 chunks over 4 warps, of which 8 are in registers.
  CheckGeometry(90, Forward("lstm", kBf16, 2048), any, {"grid, shared memory", 128, 2, 4, 16});
  // A small problem needs few blocks; but st.async wants a cluster of two at least.
  CheckGeometry(90, Forward("elman_tanh", kBf16, 64), any, {"cluster, registers", 4, 1, 2, 1});
  CheckGeometry(90, Forward("elman_tanh", kBf16, 16), any, {"cluster, registers", 2, 1, 1, 1});
}

void TestBatches() {
  const DeviceFacts h100 = FactsOfArchitecture(90);
  const auto plan = [&](int64_t groups, int64_t batch, GpuResidency residency) {
    return PlanKernel({Cell("lstm"), false, Precision::kBfloat16, groups, batch, 512}, h100,
                   residency);
  };
  // 132 SMs hold two grids of 64 blocks, with 8 of 16 tiles each, or sixteen clusters of 8.
  CHECK(plan(1, 128, GpuResidency::kGrid).pass.tiles_per_team == 8);
  const KernelPlan clusters = plan(1, 128, GpuResidency::kCluster);
  CHECK(clusters.pass.blocks_per_team == 8 && clusters.teams == 16, clusters.explanation);
  CHECK(plan(1, 8, GpuResidency::kCluster).teams == 1);
  // A team takes 16 tiles at most; the teams that find no SMs wait for the launch before.
  const KernelPlan large = plan(3, 512, GpuResidency::kGrid);
  CHECK(large.pass.tiles_per_team == 16 && large.teams == 12, large.pass.tiles_per_team,
        large.teams);
  CHECK(large.launch_teams == 2, large.launch_teams);
  CHECK(large.explanation.find("6 launches, one after the other") != std::string::npos,
        large.explanation);
  // A launch may be quicker than another kind's and still lose, for there are more of them.
  CHECK(plan(1, 5000, GpuResidency::kAny).pass.cluster);
}

void CheckRefused(const GpuProblem& p, const DeviceFacts& facts, GpuResidency residency,
                  const std::string& says) {
  const KernelPlan plan = PlanKernel(p, facts, residency);
  CHECK(!plan.runs && plan.explanation.find(says) != std::string::npos, plan.explanation, says);
}

void TestRefusals() {
  const DeviceFacts a100 = FactsOfArchitecture(80), h100 = FactsOfArchitecture(90);
  const auto kBf16 = Precision::kBfloat16;
  const auto any = GpuResidency::kAny, cluster = GpuResidency::kCluster;
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
}

void TestWordsForTheExchange() {
  CHECK(jp::ResidencyOf("") == GpuResidency::kAny);
  CHECK(jp::ResidencyOf("grid") == GpuResidency::kGrid);
  CHECK(jp::ResidencyOf("grid-barrier") == GpuResidency::kGrid);
  CHECK(jp::ResidencyOf("cluster") == GpuResidency::kCluster);
  CHECK(!jp::ResidencyOf("barrier") && !jp::ResidencyOf("Grid"));
}

}  // namespace

int main() {
  TestEveryProblemOnEveryGpu();
  TestPartsOfAGpu();
  TestKernelsFitARegisterFile();
  TestGeometries();
  TestBatches();
  TestRefusals();
  TestWordsForTheExchange();
  return jp::test::Finish("gpu plan");
}
