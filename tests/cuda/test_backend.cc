// SPDX-License-Identifier: Apache-2.0
// The CUDA backend through native/backend.h, on the software GPU: facts, options, refusals, calls.
#include "cuda/backend.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda/cases.h"
#include "tests/cuda/software_gpu/software_gpu.h"

namespace {

using jp::Backend;
using jp::Description;
using jp::Facts;
using jp::Options;
using jp::Part;
using jp::Plan;
using jp::Problem;
using namespace jp::test;

const Backend& Cuda() { return jp::cuda::TheBackend(); }

// GPU 3 of four.
jp::Resources here{.threads = 0, .schedule = {}, .device = 3, .stream = nullptr};

Problem Lstm(int64_t hidden, std::initializer_list<Part> parts = {Part::lengths}) {
  return GivenToGpu(*jp::FindCell("lstm"), Precision::kBfloat16, {1, 3, 4, hidden}, parts);
}

void CheckFacts() {
  const Facts facts = Cuda().FactsOf(here);
  CHECK(facts.size() == 5 && facts.at("processors") == 4 && facts.at("shared_bytes") == 160 << 10);
  const Facts h100 = Cuda().FactsOfArchitecture("sm_90");
  CHECK(h100.at("architecture") == 90 && h100.at("processors") == 132);
  CHECK(Cuda().FactsOfArchitecture("sm_90a") == h100);
  CHECK(Cuda().FactsOfArchitecture("90") == h100);
  for (const char* name : {"sm_75", "sm_7", "sm_0"}) {
    CHECK(Cuda().FactsOfArchitecture(name).at("processors") == 0, name);
  }
  for (const char* name : {"", "sm_", "sm_9x", "sm_a", "sm_90ab", "gfx90a", "avx2"}) {
    CHECK(Cuda().FactsOfArchitecture(name).empty(), name);
  }
  CHECK(Cuda().Platform() == "CUDA" && Cuda().Missing().empty());
  CHECK(Cuda().KindOfExecutor() == jp::Executor::kStream);
}

// What MakePlan throws.
std::string Thrown(const Facts& facts, const Options& options) {
  try {
    Cuda().MakePlan(jp::test::ForwardOf(Lstm(24)), facts, options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

void CheckWrongArguments() {
  const Facts good = Cuda().FactsOf(here);
  CHECK(Thrown(good, {}).empty() && Thrown(good, {{"exchange", ""}}).empty());
  for (const char* exchange : {"Grid", "barrier", "cluster "}) {
    const std::string thrown = Thrown(good, {{"exchange", exchange}});
    CHECK(thrown.starts_with("exchange: expected \"grid\", ") && thrown.ends_with("\""), thrown);
  }
  CHECK(Thrown(good, {{"panels", "3"}}) == "panels: unknown option of the GPU kernels");
  for (const auto& [name, value] : good) {
    Facts facts = good;
    facts.erase(name);
    CHECK(Thrown(facts, {}) == name + ": this fact is missing", Thrown(facts, {}));
    facts[name] = -1;
    CHECK(Thrown(facts, {}).starts_with(name + ": expected "), Thrown(facts, {}));
  }
  Facts more = good;
  more["threads"] = 4;
  CHECK(Thrown(more, {}) == "threads: unknown fact of a GPU", Thrown(more, {}));
}

std::string Refusal(const Problem& problem, const char* architecture = "sm_90") {
  const auto plan = Cuda().MakePlan(problem, Cuda().FactsOfArchitecture(architecture), {});
  const Description said = plan->Describe();
  CHECK(said.explanation == plan->Refusal() || plan->Refusal().empty(), said.explanation);
  CHECK(said.residency.empty() == !plan->Refusal().empty(), said.residency);
  return plan->Refusal();
}

void CheckRefusals() {
  CHECK(Refusal(ForwardOf(Lstm(512))).empty());
  CHECK(Refusal(ForwardOf(Lstm(512)), "sm_75") == "no kernels for this GPU's architecture");
  Problem inputs = Lstm(512);
  inputs.parts = 0;
  inputs.Add(Part::inputs).Add(Part::bias);
  CHECK(Refusal(ForwardOf(inputs)).find("in place of x") != std::string::npos);
  CHECK(Refusal(BackwardOf(Lstm(512), {Part::d_gates})).empty());
  for (const Part part : {Part::d_x, Part::d_weights}) {
    CHECK(Refusal(BackwardOf(Lstm(512), {part})).find("(d_gates)") != std::string::npos);
    CHECK(Refusal(BackwardOf(Lstm(512), {Part::d_gates, part})).find("(d_gates)") !=
          std::string::npos);
  }
  Problem large = Lstm(512);
  large.steps = int64_t{1} << 28;
  CHECK(Refusal(ForwardOf(large)).find("below 268435456; got 268435456") != std::string::npos);
}

// A call with exactly the workspace that the plan asks for, aligned to 16 bytes and no more.
template <class PassArrays>
std::string Run(const Plan& plan, const PassArrays& arrays) {
  const int64_t bytes = plan.WorkspaceBytes();
  std::vector<unsigned char> memory(bytes + 256, 0xa5);
  unsigned char* begin = memory.data();
  while (reinterpret_cast<uintptr_t>(begin) % 128 != 16) ++begin;
  const std::string too_early = Cuda().Run(plan, arrays, bytes > 0 ? begin : nullptr, here);
  if (!too_early.empty()) {  // the first run of its kernel
    CHECK(too_early.find("not loaded") != std::string::npos, too_early);
    Cuda().Load(plan, here);
  }
  SoftwareGpuCounts(1);
  const std::string said = Cuda().Run(plan, arrays, bytes > 0 ? begin : nullptr, here);
  const SoftwareCounts counts = SoftwareGpuCounts(1);
  CHECK(counts.launches == 1 && counts.modules == 0 && counts.queries == 0, counts.launches);
  bool intact = true;
  for (const unsigned char* at = memory.data(); at < begin; ++at) intact &= *at == 0xa5;
  for (size_t i = begin - memory.data() + bytes; i < memory.size(); ++i)
    intact &= memory[i] == 0xa5;
  CHECK(intact);
  return said;
}

void CheckCalls() {
  for (const int64_t hidden : {24, 21}) {  // without and with padded copies in the workspace
    for (const char* exchange : {"", "grid", "grid-barrier", "cluster"}) {
      const Problem given = Lstm(hidden, {Part::lengths, Part::resets, Part::reset_state});
      Arrays arrays = MakeArrays(given, 6);
      Buffers buffers(arrays);
      const Facts facts = Cuda().FactsOf(here);
      const Options options{{"exchange", exchange}};
      const GpuCase c{given};

      const auto forward = Cuda().MakePlan(c.forward(), facts, options);
      CHECK(forward->Refusal().empty(), exchange, forward->Refusal());
      CHECK(forward->Describe().residency.starts_with(
                std::string_view(exchange).starts_with("grid") ? "grid" : "cluster"),
            exchange, forward->Describe().residency);
      const std::string went = Run(*forward, buffers.forward(c.forward()));
      CHECK(went.empty(), exchange, went);
      ReferenceForward(c.forward(), arrays);
      CheckClose(c, "outputs", buffers.outputs, arrays.outputs);

      const auto backward = Cuda().MakePlan(c.backward(), facts, options);
      const std::string came = Run(*backward, buffers.backward(c.backward()));
      CHECK(came.empty(), exchange, came);
      arrays.outputs = buffers.outputs.values();
      arrays.residuals = buffers.residuals.values();
      ReferenceBackward(c.backward(), arrays);
      CheckClose(c, "d_input_gates", buffers.d_input_gates, arrays.d_input_gates);
      CheckClose(c, "d_reset_state", *buffers.d_reset_state[1], arrays.d_reset_state[1]);
    }
  }
}

}  // namespace

int main() {
  const SoftwareDevice small{90, 4, 160 << 10, 4, 1 << 20, 1};
  const SoftwareDevice devices[] = {small, small, small, small};
  SoftwareGpuSetDevices(devices, 4);
  here.stream = SoftwareGpuStream(3);
  CheckFacts();
  CheckWrongArguments();
  CheckRefusals();
  CheckCalls();
  return Finish("CUDA backend");
}
