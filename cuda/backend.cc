// SPDX-License-Identifier: Apache-2.0
// What native/backend.h asks of a backend, of the CUDA kernels: facts, plans and calls.
#include "cuda/backend.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <utility>

#include "cuda/device.h"
#include "cuda/launches.h"
#include "cuda/nvrtc.h"
#include "cuda/program_source.h"

namespace jp::cuda {
namespace {

constexpr int64_t kMostParts = 6;  // of a workspace, and its beginning: each on a line of its own
constexpr uint64_t kTimeoutNs = 20'000'000'000;  // under a debugger steps take seconds

Facts AsFacts(const DeviceFacts& facts) {
  return {{"architecture", facts.architecture},
          {"processors", facts.processors},
          {"shared_bytes", facts.shared_bytes},
          {"cluster_blocks", facts.cluster_blocks},
          {"l2_bytes", facts.l2_bytes}};
}

int64_t Fact(const Facts& facts, std::string_view name, int64_t least, int64_t most) {
  const auto found = facts.find(name);
  if (found == facts.end())
    throw std::invalid_argument(std::string(name) + ": this fact is missing");
  if (found->second < least || found->second > most) {
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got " + std::to_string(found->second));
  }
  return found->second;
}

DeviceFacts FromFacts(const Facts& facts) {
  constexpr int64_t kInt = std::numeric_limits<int>::max();
  const auto number = [&](std::string_view name, int64_t least, int64_t most) {
    return static_cast<int>(Fact(facts, name, least, most));
  };
  const DeviceFacts known{
      .architecture = number("architecture", 0, kInt),
      .processors = number("processors", 0, 1 << 16),
      .shared_bytes = number("shared_bytes", 0, 1 << 24),
      .cluster_blocks = number("cluster_blocks", 1, 1 << 10),
      .l2_bytes = Fact(facts, "l2_bytes", 0, std::numeric_limits<int64_t>::max())};
  const Facts all = AsFacts(known);
  for (const auto& [name, value] : facts) {
    if (!all.contains(name)) throw std::invalid_argument(name + ": unknown fact of a GPU");
  }
  return known;
}

// What a caller may choose instead of the planner.
struct Choices {
  Exchange exchange = Exchange::kAny;
  int width = 0;
};

Choices ChoicesIn(const Options& options) {
  Choices choices;
  for (const auto& [name, value] : options) {
    if (name == "width") {
      const auto chosen = std::ranges::find_if(
          kWidths, [&value](int width) { return std::to_string(width) == value; });
      if (chosen == std::end(kWidths)) {
        throw std::invalid_argument("width: expected 1, 2 or 4, got \"" + value + "\"");
      }
      choices.width = *chosen;
      continue;
    }
    if (name != "exchange")
      throw std::invalid_argument(name + ": unknown option of the GPU kernels");
    const std::optional<Exchange> named = ExchangeOf(value);
    if (!named) {
      throw std::invalid_argument(
          "exchange: expected \"grid\", \"grid-barrier\", \"cluster\" or nothing, got \"" + value +
          "\"");
    }
    choices.exchange = *named;
  }
  return choices;
}

Resources OnDevice(int ordinal) {
  Resources resources;
  resources.device = ordinal;
  return resources;
}

class GpuPlan : public Plan {
 public:
  explicit GpuPlan(std::string refusal) { plan_.refusal = std::move(refusal); }
  // `text`: the kernel of a plan that runs.
  GpuPlan(const Problem& problem, const DeviceFacts& facts, const KernelPlan& plan,
          const WorkspaceBound& bound, KernelText text)
      : problem_(problem),
        facts_(facts),
        plan_(plan),
        workspace_bytes_(LayOutWorkspace(problem, plan).bytes),
        bound_(bound),
        kernel_(&KernelFor(std::move(text), facts)) {}

  std::string Refusal() const override { return plan_.refusal; }

  // With room to begin on a line of L2, which XLA does not promise.
  int64_t WorkspaceBytes() const override {
    return workspace_bytes_ == 0 ? 0 : workspace_bytes_ + kWorkspaceLine - kWorkspaceAlignment;
  }

  Description Describe() const override {
    if (!plan_.runs()) return {.residency = {}, .explanation = plan_.refusal, .numbers = {}};
    const Geometry& g = plan_.geometry;
    return {.residency = Residency(plan_),
            .explanation = Explain(plan_, facts_),
            .numbers = {{"workers", g.blocks_per_team},
                        {"packed_bytes", plan_.weight_bytes},
                        {"teams", plan_.teams},
                        {"tiles_per_team", g.tiles_per_team},
                        {"width", g.width},
                        {"cut", g.cut},
                        {"warps_for_units", g.warps_m},
                        {"warps_for_depth", g.warps_k},
                        {"chunks", g.warp_chunks},
                        {"shared_chunks", g.shared_chunks},
                        {"streamed_chunks", g.stream_chunks},
                        {"shared_bytes", g.shared_bytes},
                        {"workspace_fixed", bound_.fixed + kMostParts * kWorkspaceLine},
                        {"workspace_per_row", bound_.per_row},
                        {"workspace_per_step", bound_.per_step}}};
  }

  DeviceKernel& kernel() const { return *kernel_; }
  const Problem& problem() const { return problem_; }

  template <class Arrays>
  std::string Run(const Arrays& arrays, void* workspace, const Resources& resources) const {
    const auto address = reinterpret_cast<uintptr_t>(workspace);
    const uintptr_t line = uintptr_t{kWorkspaceLine};
    const DeviceCall call{
        .problem = problem_,
        .plan = plan_,
        .kernel = *kernel_,
        .workspace = static_cast<unsigned char*>(workspace) + (line - address % line) % line,
        .timeout_ns = kTimeoutNs,
        .ordinal = resources.device,
        .stream = resources.stream};
    try {
      return EnqueueOnDevice(call, arrays);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  }

 private:
  Problem problem_;
  DeviceFacts facts_;
  KernelPlan plan_;
  int64_t workspace_bytes_ = 0;
  WorkspaceBound bound_;
  DeviceKernel* kernel_ = nullptr;  // of a plan that runs
};

std::unique_ptr<GpuPlan> PlanOfCell(const Problem& problem, const DeviceFacts& facts,
                                    const Choices& choices) {
  const KernelPlan plan = PlanKernel(problem, facts, choices.exchange, choices.width);
  if (!plan.runs()) return std::make_unique<GpuPlan>(plan.refusal);
  return std::make_unique<GpuPlan>(problem, facts, plan,
                                   BoundWorkspace(problem, facts, choices.exchange),
                                   TextOf(KernelOf(problem, plan)));
}

std::unique_ptr<GpuPlan> PlanOfProgram(const Program& program, const DeviceFacts& facts,
                                       const Choices& choices) {
  const ProgramStep step = StepOf(program);
  if (!step.refusal.empty()) return std::make_unique<GpuPlan>(step.refusal);
  const Problem problem = ProblemOf(program, step);
  KernelPlan plan = PlanKernel(problem, facts, choices.exchange, choices.width, 1);
  if (!plan.runs()) return std::make_unique<GpuPlan>(plan.refusal);
  plan.sends_results = false;
  return std::make_unique<GpuPlan>(problem, facts, plan, WorkspaceBound{},
                                   ProgramKernel(program, step, plan));
}

class GpuBackend : public Backend {
 public:
  std::string_view Platform() const override { return "CUDA"; }
  Executor KindOfExecutor() const override { return Executor::kStream; }
  std::string Missing() const override { return cuda::Missing(); }

  void SearchFor(std::vector<std::string> files) const override {
    SearchForNvrtc(std::move(files));
  }
  std::vector<std::pair<std::string, std::string>> Report() const override { return ReportHere(); }

  std::vector<Resources> Places() const override {
    std::vector<Resources> places;
    for (const int ordinal : DevicesInUse()) places.push_back(OnDevice(ordinal));
    return places;
  }

  Facts FactsOf(const Resources& where) const override {
    return AsFacts(FactsOfDevice(where.device));
  }

  // "sm_90", "sm_90a" for the same GPU, or "90".
  Facts FactsOfArchitecture(std::string_view name) const override {
    if (name.starts_with("sm_")) name.remove_prefix(3);
    if (name.ends_with('a') || name.ends_with('f')) name.remove_suffix(1);
    int number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error != std::errc() || end != name.data() + name.size()) return {};
    return AsFacts(cuda::FactsOfArchitecture(number));
  }

  std::unique_ptr<Plan> MakePlan(const Problem& problem, const Facts& facts,
                                 const Options& options) const override {
    return PlanOfCell(problem, FromFacts(facts), ChoicesIn(options));
  }

  void Compile(const Plan& plan) const override {
    static_cast<const GpuPlan&>(plan).kernel().Compile();
  }
  void Load(const Plan& plan, const Resources& where) const override {
    static_cast<const GpuPlan&>(plan).kernel().Load(where.device);
  }

  std::string Run(const Plan& plan, const Forward& arrays, void* workspace,
                  const Resources& resources) const override {
    return static_cast<const GpuPlan&>(plan).Run(arrays, workspace, resources);
  }
  std::string Run(const Plan& plan, const Backward& arrays, void* workspace,
                  const Resources& resources) const override {
    return static_cast<const GpuPlan&>(plan).Run(arrays, workspace, resources);
  }

  std::unique_ptr<Plan> MakeProgramPlan(Program program, const Facts& facts,
                                        const Options& options) const override {
    if (program.Products() > 0) throw std::invalid_argument("a program that multiplies its xs");
    return PlanOfProgram(program, FromFacts(facts), ChoicesIn(options));
  }
  std::string RunProgram(const Plan& plan, std::span<const void* const> operands,
                         std::span<void* const> results, void* workspace,
                         const Resources& resources) const override {
    const auto& planned = static_cast<const GpuPlan&>(plan);
    ProgramArrays arrays{};
    arrays.groups = planned.problem().groups;
    std::ranges::copy(operands, arrays.operands);
    std::ranges::copy(results, arrays.results);
    return planned.Run(arrays, workspace, resources);
  }

  std::vector<uint32_t> RunSource(const SourceKernel& kernel, int64_t words,
                                  int device) const override {
    return cuda::RunSource(kernel, words, device);
  }
};

}  // namespace

const Backend& TheBackend() {
  static const GpuBackend backend;
  return backend;
}

}  // namespace jp::cuda
