// SPDX-License-Identifier: Apache-2.0
// The CPU's backend: facts, plans, and a call from its memory to its last phase.
#include "native/cpu/backend.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

#include "native/cpu/cores.h"
#include "native/cpu/machine.h"
#include "native/cpu/product_plan.h"
#include "native/cpu/program_plan.h"
#include "native/cpu/scratch.h"
#include "native/problem/parse.h"

namespace jp::cpu {
namespace {

// The facts' names in Facts.
constexpr const char *kThreadsFact = "threads", *kLanesFact = "lanes",
                     *kRegistersFact = "registers", *kL2BytesFact = "l2_bytes",
                     *kL3BytesFact = "l3_bytes", *kUnitsFact = "bfloat16_units";

int64_t FactOf(const Facts& facts, const char* name, int64_t least) {
  const auto fact = facts.find(name);
  if (fact != facts.end() && fact->second >= least && fact->second <= int64_t{1} << 40) {
    return fact->second;
  }
  throw std::invalid_argument(std::string("facts: expected ") + name + " to be at least " +
                              std::to_string(least) + "; got " +
                              (fact == facts.end() ? "none" : std::to_string(fact->second)));
}

CpuFacts Parsed(const Facts& facts) {
  return {
      .threads = static_cast<int>(std::min<int64_t>(FactOf(facts, kThreadsFact, 1), 1 << 16)),
      .vector_lanes = static_cast<int>(std::min<int64_t>(FactOf(facts, kLanesFact, 1), 1 << 10)),
      .vector_count =
          static_cast<int>(std::min<int64_t>(FactOf(facts, kRegistersFact, 1), 1 << 10)),
      .l2_bytes = FactOf(facts, kL2BytesFact, 0),
      .l3_bytes = FactOf(facts, kL3BytesFact, 0),
      .units = static_cast<Units>(std::min<int64_t>(FactOf(facts, kUnitsFact, 0), 2))};
}

// Why a machine can't read what was packed for vectors of so many lanes, 0: nothing was.
std::string PackedRefusal(int64_t lanes, const CpuFacts& facts) {
  if (lanes == 0 || lanes == facts.vector_lanes) return {};
  return "the kernels were packed for vectors of " + std::to_string(lanes) +
         " units, and this machine's have " + std::to_string(facts.vector_lanes) +
         ": pack them where they are used, by the same JAX_PERSISTENT_ISA";
}

constexpr uintptr_t kLine = 64;  // what LayOut's memory begins with

void MultiplyOnTeam(const ProductCall& call, const Resources& resources) {
  Team::Run(
      call.plan.workers, 1, resources.schedule,
      [&call, multiply = ChosenIsa().multiply](int worker, int64_t) { multiply(call, worker); });
}

class CpuPlanned : public Plan {
 public:
  CpuPlanned(const Problem& problem, const CpuFacts& facts)
      : refusal_(jp::cpu::Refusal(problem, facts)), facts_(facts) {
    if (!refusal_.empty()) return;
    plan_ = PlanCpu(problem, facts);
    if (problem.pass == Pass::kForward) {
      Lay(MakeWorkspace<Forward>(problem, plan_));
    } else {
      Lay(MakeWorkspace<Backward>(problem, plan_));
    }
  }

  std::string Refusal() const override { return refusal_; }

  // With room to begin on a cache line, which callers do not promise.
  int64_t WorkspaceBytes() const override {
    return bytes_ == 0 ? 0 : static_cast<int64_t>(bytes_ + kLine - kWorkspaceAlignment);
  }

  Description Describe() const override {
    if (!refusal_.empty()) return {"", refusal_, {}};
    const GemmPlan& gemm = plan_.recurrence;
    return {std::string(plan_.residency),
            Explain(plan_, facts_),
            {{"workers", gemm.workers * plan_.groups_at_once},
             {"packed_bytes", gemm.packed_bytes * plan_.groups_at_once},
             {"splits_batch", gemm.SplitsBatch()},
             {"panels", gemm.panels},
             {"panel_vectors", gemm.panel_vectors},
             {"tile_rows", gemm.tile_rows},
             {"worker_bytes", gemm.slice_bytes}}};
  }

  template <class Arrays>
  std::string Run(const Arrays& arrays, void* workspace, const Resources& resources) const {
    const auto* laid = std::get_if<Workspace<Arrays>>(&space_);
    if (laid == nullptr) return "the plan is not of this pass";
    std::optional<Scratch> kept;
    if (workspace == nullptr) workspace = kept.emplace(bytes_).as<void>();
    const auto address = reinterpret_cast<uintptr_t>(workspace);
    Workspace<Arrays> space = *laid;
    space.arrays = arrays;
    LayOut(space, static_cast<char*>(workspace) + (kLine - address % kLine) % kLine);
    RunWorkspace(ChosenIsa(), space, resources.schedule);
    return {};
  }

 private:
  template <class Arrays>
  void Lay(Workspace<Arrays> space) {
    bytes_ = LayOut(space, nullptr);
    space_ = space;
  }

  std::string refusal_;
  CpuFacts facts_;
  CpuPlan plan_;
  std::variant<std::monostate, Workspace<Forward>, Workspace<Backward>> space_;
  size_t bytes_ = 0;
};

class ProgramPlanned : public Plan {
 public:
  ProgramPlanned(Program program, const CpuFacts& facts)
      : refusal_(PackedRefusal(program.packed_lanes, facts)),
        program_(std::move(program)),
        facts_(facts) {
    if (!refusal_.empty()) return;
    plan_ = PlanProgram(program_, facts);
    for (int64_t n = 0; n < std::ssize(program_.operands); ++n) {
      const ProgramArray& x = program_.operands[n];
      if (x.depth == 0) continue;
      const int64_t rows =
          program_.steps * (x.has_groups ? program_.groups : 1) * (x.has_rows ? program_.rows : 1);
      const Product product{rows, x.depth, x.features, false, x.is_transposed};
      products_.push_back({n, product, PlanProduct(product, facts)});
    }
  }

  std::string Refusal() const override { return refusal_; }

  Description Describe() const override {
    if (!refusal_.empty()) return {"", refusal_, {}};
    return {std::string(plan_.residency),
            Explain(plan_, facts_),
            {{"workers", plan_.workers},
             {"packed_bytes", plan_.packed_bytes},
             {"splits_batch", plan_.splits_batch},
             {"meetings", plan_.meets ? plan_.main_stages : 0}}};
  }

  std::string Run(std::span<const void* const> operands, std::span<void* const> results,
                  const Resources& resources) const {
    const Scratch memory(plan_.bytes);
    std::vector<const void*> given(operands.begin(), operands.begin() + program_.operands.size());
    const void* const* matrix = operands.data() + program_.operands.size();
    std::vector<Scratch> kept;
    std::vector<ProductCall> first;  // by the program's team, before its own phases
    for (const auto& [n, product, plan] : products_) {
      const auto* left = static_cast<const float*>(given[n]);
      const auto* right = static_cast<const float*>(*matrix++);
      auto* to = kept.emplace_back(product.rows * product.columns * sizeof(float)).as<float>();
      auto* packed = kept.emplace_back(plan.Bytes()).as<float>();
      first.push_back({product, plan, left, right, to, packed});
      given[n] = to;
      if (plan.workers != plan_.workers) {
        MultiplyOnTeam(first.back(), resources);
        first.pop_back();
      }
    }
    const ProgramCall call{program_, plan_, given.data(), results.data(), memory.as<char>()};
    const auto products = std::ssize(first);
    Team::Run(plan_.workers, products + program_.groups * plan_.phases, resources.schedule,
              [&call, &first, products, isa = &ChosenIsa()](int worker, int64_t phase) {
                if (phase < products) {
                  isa->multiply(first[phase], worker);
                } else {
                  isa->program(call, worker, phase - products);
                }
              });
    return {};
  }

 private:
  struct OperandProduct {
    int64_t operand;
    Product product;
    ProductPlan plan;
  };

  std::string refusal_;
  Program program_;
  CpuFacts facts_;
  ProgramPlan plan_;
  std::vector<OperandProduct> products_;
};

void RefuseOptions(const Options& options) {
  if (options.empty()) return;
  throw std::invalid_argument("options: expected none on a CPU; got '" + options.begin()->first +
                              "'");
}

class CpuBackend : public Backend {
 public:
  std::string_view Platform() const override { return "cpu"; }
  Executor KindOfExecutor() const override { return Executor::kThreadPool; }
  std::vector<Resources> Places() const override {
    Resources here;
    here.threads = CoreCount();
    return {here};
  }

  Facts FactsOf(const Resources& where) const override {
    const CpuFacts facts = ThisMachine(where.threads);
    return {{kThreadsFact, facts.threads},        {kLanesFact, facts.vector_lanes},
            {kRegistersFact, facts.vector_count}, {kL2BytesFact, facts.l2_bytes},
            {kL3BytesFact, facts.l3_bytes},       {kUnitsFact, static_cast<int64_t>(facts.units)}};
  }

  std::unique_ptr<Plan> MakePlan(const Problem& problem, const Facts& facts,
                                 const Options& options) const override {
    RefuseOptions(options);
    return std::make_unique<CpuPlanned>(problem, Parsed(facts));
  }

  std::string Run(const Plan& plan, const Forward& arrays, void* workspace,
                  const Resources& resources) const override {
    return static_cast<const CpuPlanned&>(plan).Run(arrays, workspace, resources);
  }
  std::string Run(const Plan& plan, const Backward& arrays, void* workspace,
                  const Resources& resources) const override {
    return static_cast<const CpuPlanned&>(plan).Run(arrays, workspace, resources);
  }

  std::string Pack(const Packing& packing, const void* from, void* to,
                   const Resources& resources) const override {
    const CpuFacts facts = ThisMachine(resources.threads);
    const Problem problem{.dtype = packing.dtype, .packed_lanes = packing.lanes};
    const std::string refusal = jp::cpu::Refusal(problem, facts);
    if (!refusal.empty()) return refusal;
    const PackCall call{packing, PlanPacking(packing, facts), from, to};
    Team::Run(call.plan.workers, 1, resources.schedule,
              [&call, pack = ChosenIsa().pack](int worker, int64_t) { pack(call, worker); });
    return {};
  }

  std::string Multiply(const Product& product, const float* left, const float* right, float* result,
                       const Resources& resources) const override {
    const CpuFacts facts = ThisMachine(resources.threads);
    std::string refusal = PackedRefusal(product.packed_lanes, facts);
    if (!refusal.empty()) return refusal;
    const ProductPlan plan = PlanProduct(product, facts);
    const Scratch memory(plan.Bytes());
    MultiplyOnTeam({product, plan, left, right, result, memory.as<float>()}, resources);
    return {};
  }

  std::unique_ptr<Plan> MakeProgramPlan(Program program, const Facts& facts,
                                        const Options& options) const override {
    RefuseOptions(options);
    return std::make_unique<ProgramPlanned>(std::move(program), Parsed(facts));
  }
  std::string RunProgram(const Plan& plan, std::span<const void* const> operands,
                         std::span<void* const> results, void* /*workspace*/,
                         const Resources& resources) const override {
    return static_cast<const ProgramPlanned&>(plan).Run(operands, results, resources);
  }
};

}  // namespace

std::string Refusal(const Problem& problem, const CpuFacts& facts) {
  std::string packed = PackedRefusal(problem.packed_lanes, facts);
  if (!packed.empty()) return packed;
  if (problem.dtype != DType::kFloat32 && problem.dtype != DType::kBfloat16) {
    return "no cpu kernel for " + std::string(NameOf(problem.dtype)) +
           "; there is one for float32 and bfloat16";
  }
  if (problem.has(Part::input_gates) && problem.pass == Pass::kForward) {
    return "no cpu kernel that is given the input gates; there is one that computes them";
  }
  return {};
}

const Backend& TheBackend() {
  static const CpuBackend backend;
  return backend;
}

}  // namespace jp::cpu
