// SPDX-License-Identifier: Apache-2.0
// The Python module: hands out the FFI targets, plans, facts of machines, and what it was built
// against.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "native/backends.h"
#include "native/cells/cells.h"
#include "native/cpu/isa.h"
#include "native/cpu/units.h"
#include "native/problem/parse.h"
#include "native/xla/handlers.h"
#include "native/xla/pack_handler.h"
#include "native/xla/product_handler.h"

namespace nb = nanobind;

namespace {

using FactsOrOptions = std::map<std::string, std::string>;

nb::capsule Handler(XLA_FFI_Handler* handler) {
  return nb::capsule(reinterpret_cast<void*>(handler));
}

std::string PlatformName(const jp::Backend& backend) { return std::string(backend.Platform()); }

// {platform: {target name: {stage: handler}}}
nb::dict Targets() {
  nb::dict platforms;
  const auto backends = jp::Backends();
  for (size_t i = 0; i < backends.size(); ++i) {
    nb::dict targets;
    const auto add = [&targets](const char* name, const jp::ffi::Stages& stages) {
      nb::dict handlers;
      handlers["instantiate"] = Handler(stages.instantiate);
      if (stages.initialize != nullptr) handlers["initialize"] = Handler(stages.initialize);
      handlers["execute"] = Handler(stages.execute);
      targets[name] = handlers;
    };
    for (jp::Pass pass : {jp::Pass::kForward, jp::Pass::kBackward}) {
      add(jp::ffi::TargetOf(pass), jp::ffi::StagesOf(i, pass));
    }
    add(jp::ffi::kProgramTarget, jp::ffi::StagesOfProgram(i));
    if (backends[i]->KindOfExecutor() == jp::Executor::kThreadPool) {
      const auto add_stateless = [&targets](const char* name, XLA_FFI_Handler* execute) {
        nb::dict handlers;
        handlers["execute"] = Handler(execute);
        targets[name] = handlers;
      };
      add_stateless(jp::ffi::kPackTarget, jp::ffi::ExecutePack);
      add_stateless(jp::ffi::kProductTarget, jp::ffi::ExecuteProduct);
    }
    platforms[PlatformName(*backends[i]).c_str()] = targets;
  }
  return platforms;
}

// {cell name: what is known of it}
nb::dict Cells() {
  nb::dict cells;
  for (const jp::CellTraits& cell : jp::kCells) {
    nb::dict traits;
    traits["gates"] = cell.gates;
    traits["residuals"] = cell.residuals;
    traits["states"] = cell.states;
    traits["reset_after"] = cell.reset_after;
    cells[std::string(cell.name).c_str()] = traits;
  }
  return cells;
}

const jp::Backend& BackendOf(const std::string& platform) {
  const jp::Backend* backend = jp::FindBackend(platform);
  if (backend == nullptr) throw std::invalid_argument("unknown platform '" + platform + "'");
  return *backend;
}

jp::Attributes AttributesOf(const nb::dict& dict) {
  jp::Attributes attributes;
  for (const auto& [key, value] : dict) {
    const std::string name = nb::cast<std::string>(key);
    if (nb::isinstance<nb::bool_>(value)) {
      attributes[name] = nb::cast<bool>(value);
    } else if (nb::isinstance<nb::int_>(value)) {
      attributes[name] = nb::cast<int64_t>(value);
    } else {
      attributes[name] = nb::cast<std::string>(value);
    }
  }
  return attributes;
}

// A plan; compiled if `compiles` and it runs.
nb::dict AsDict(const jp::Backend& backend, const jp::Plan& plan, bool compiles) {
  const jp::Description description = plan.Describe();
  const std::string refusal = plan.Refusal();
  if (compiles && refusal.empty()) {
    const nb::gil_scoped_release others_run;
    backend.Compile(plan);
  }
  nb::dict d;
  d["explanation"] = refusal.empty() ? description.explanation : refusal;
  d["residency"] = description.residency;
  for (const auto& [number, value] : description.numbers) d[number.c_str()] = value;
  d["runs"] = refusal.empty();
  d["workspace_bytes"] = plan.WorkspaceBytes();
  return d;
}

// A plan for a problem, given by a custom call's attributes and "pass", on a machine.
nb::dict Plan(const std::string& platform, const nb::dict& attributes,
              const std::map<std::string, int64_t>& facts,
              const std::map<std::string, std::string>& options, bool compiles) {
  const jp::Backend& backend = BackendOf(platform);
  jp::Attributes problem = AttributesOf(attributes);
  const auto pass = problem.extract("pass");
  const std::string* name = pass.empty() ? nullptr : std::get_if<std::string>(&pass.mapped());
  if (name == nullptr || (*name != "forward" && *name != "backward")) {
    throw std::invalid_argument("pass: expected 'forward' or 'backward'");
  }
  jp::ParsedProblem parsed =
      jp::ParseProblem(*name == "forward" ? jp::Pass::kForward : jp::Pass::kBackward, problem);
  if (!jp::HasAllSizes(parsed.problem)) {
    throw std::invalid_argument("sizes: a plan needs all of them");
  }
  parsed.options.insert(options.begin(), options.end());
  const auto plan = backend.MakePlan(parsed.problem, {facts.begin(), facts.end()}, parsed.options);
  return AsDict(backend, *plan, compiles);
}

// How a step function's program would run on a machine.
nb::dict ProgramPlan(const std::string& platform, const std::vector<int64_t>& code,
                     const std::vector<float>& literals, const std::vector<int64_t>& layouts,
                     int64_t steps, int64_t groups, int64_t rows, bool reverse, bool tf32,
                     int64_t packed_lanes, const std::map<std::string, int64_t>& facts,
                     const std::map<std::string, std::string>& options, bool compiles) {
  const jp::Backend& backend = BackendOf(platform);
  const auto plan = backend.MakeProgramPlan(
      jp::ParseProgram(code, literals, layouts, steps, groups, rows, reverse, tf32, packed_lanes),
      {facts.begin(), facts.end()}, {options.begin(), options.end()});
  return AsDict(backend, *plan, compiles);
}

std::map<std::string, int64_t> AsDict(const jp::Facts& facts) {
  return {facts.begin(), facts.end()};
}

// The facts of this machine, for a number of threads or a device's ordinal.
std::map<std::string, int64_t> FactsOf(const std::string& platform, int threads, int device) {
  const jp::Backend& backend = BackendOf(platform);
  if (!backend.Missing().empty()) throw std::runtime_error(backend.Missing());
  jp::Resources where;
  for (const jp::Resources& place : backend.Places()) where = place;
  if (threads > 0) where.threads = threads;
  where.device = device;
  return AsDict(backend.FactsOf(where));
}

// Those of a typical machine of an architecture.
std::map<std::string, int64_t> FactsOfArchitecture(const std::string& platform,
                                                   const std::string& architecture) {
  return AsDict(BackendOf(platform).FactsOfArchitecture(architecture));
}

// What a kernel of the caller's own makes of zeros.
std::vector<uint32_t> RunSource(const std::string& platform, const std::string& name,
                                const std::string& source, int blocks, int threads, int cluster,
                                int64_t words, int device) {
  const nb::gil_scoped_release others_run;
  return BackendOf(platform).RunSource({name, source, blocks, threads, cluster}, words, device);
}

// What there is here of a platform, for people.
std::vector<std::pair<std::string, std::string>> Report(const std::string& platform) {
  return BackendOf(platform).Report();
}

void SearchFor(const std::string& platform, const std::vector<std::string>& files) {
  BackendOf(platform).SearchFor(files);
}

// Why this machine can't run a platform's kernels, or an empty text.
std::string Missing(const std::string& platform) { return BackendOf(platform).Missing(); }

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "jax_persistent's native kernels.";
  m.def("targets", &Targets);
  m.def("cells", &Cells);
  m.def("plan", &Plan, nb::arg("platform"), nb::arg("attributes"), nb::arg("facts"),
        nb::arg("options") = std::map<std::string, std::string>{}, nb::arg("compiles") = false);
  m.def("program_plan", &ProgramPlan, nb::arg("platform"), nb::arg("code"), nb::arg("literals"),
        nb::arg("layouts"), nb::arg("steps"), nb::arg("groups"), nb::arg("rows"),
        nb::arg("reverse"), nb::arg("tf32"), nb::arg("packed_lanes"), nb::arg("facts"),
        nb::arg("options") = std::map<std::string, std::string>{}, nb::arg("compiles") = false);
  m.def("report", &Report, nb::arg("platform"));
  m.def("search_for", &SearchFor, nb::arg("platform"), nb::arg("files"));
  m.def("facts", &FactsOf, nb::arg("platform"), nb::arg("threads") = 0, nb::arg("device") = 0);
  m.def("architecture_facts", &FactsOfArchitecture, nb::arg("platform"), nb::arg("architecture"));
  m.def("run_source", &RunSource, nb::arg("platform"), nb::arg("name"), nb::arg("source"),
        nb::arg("blocks"), nb::arg("threads"), nb::arg("cluster"), nb::arg("words"),
        nb::arg("device") = 0);
  m.def("missing", &Missing, nb::arg("platform"));
  m.def("cpu_bfloat16", [] { return jp::cpu::UnitsHere().why; });
  m.def("cpu_isa", [] { return std::string(jp::cpu::ChosenIsa().name); });
  m.def("ffi_version", [] { return std::pair(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
}
