// The Python module: hands out the FFI targets, the plan, and what it was built against.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "native/cells/cell.h"
#include "native/cpu/isa.h"
#include "native/cpu/machine.h"
#include "native/ffi/cpu_handlers.h"

namespace nb = nanobind;

namespace {

nb::capsule Handler(XLA_FFI_Handler* handler) {
  return nb::capsule(reinterpret_cast<void*>(handler));
}

// {platform: {target name: handler}}
nb::dict Targets() {
  nb::dict cpu;
  cpu["jax_persistent.forward"] = Handler(jp::ffi::CpuForward);
  cpu["jax_persistent.backward"] = Handler(jp::ffi::CpuBackward);
  nb::dict platforms;
  platforms["cpu"] = cpu;
  return platforms;
}

nb::dict PassAsDict(const jp::CpuPass& pass) {
  nb::dict d;
  d["workers"] = pass.slices;
  d["panels"] = pass.panels;
  d["panel_units"] = pass.panel_units;
  d["tile_rows"] = pass.tile_rows;
  d["packed_bytes"] = pass.packed_bytes;
  d["worker_bytes"] = pass.slice_bytes;
  return d;
}

nb::dict PlanCpu(const std::string& cell, int64_t hidden, int64_t batch, int weight_bytes,
                 int threads, int lanes, int registers, int64_t l2_bytes, int64_t l3_bytes) {
  const jp::CellTraits* traits = jp::FindCell(cell);
  if (traits == nullptr) throw nb::value_error(("unknown cell '" + cell + "'").c_str());
  const jp::CpuFacts facts{threads, lanes, registers, l2_bytes, l3_bytes};
  const jp::CpuPlan plan = jp::PlanCpu(*traits, hidden, batch, weight_bytes, facts);
  nb::dict d;
  d["forward"] = PassAsDict(plan.forward);
  d["backward"] = PassAsDict(plan.backward);
  d["residency"] = plan.residency;
  d["explanation"] = plan.explanation;
  return d;
}

nb::dict CpuFacts(int threads) {
  const jp::CpuFacts facts = jp::cpu::ThisMachine(threads);
  nb::dict d;
  d["threads"] = facts.threads;
  d["lanes"] = facts.vector_lanes;
  d["registers"] = facts.vector_count;
  d["l2_bytes"] = facts.l2_bytes;
  d["l3_bytes"] = facts.l3_bytes;
  return d;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "jax_persistent's native kernels.";
  m.def("targets", &Targets);
  m.def("ffi_version", [] { return std::pair(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  m.def("cpu_isa", [] { return std::string(jp::cpu::ChosenIsa().name); });
  m.def("cpu_facts", &CpuFacts, nb::arg("threads"));
  m.def("plan_cpu", &PlanCpu, nb::arg("cell"), nb::arg("hidden"), nb::arg("batch"),
        nb::arg("weight_bytes"), nb::arg("threads"), nb::arg("lanes"), nb::arg("registers"),
        nb::arg("l2_bytes"), nb::arg("l3_bytes"));
}
