// The Python module: hands out the FFI targets, the plan, and what it was built against.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "native/cells/cell.h"
#include "native/cpu/isa.h"
#include "native/cpu/machine.h"
#include "native/ffi/cpu_handlers.h"
#include "native/plan/gpu_plan.h"

#ifdef JP_WITH_CUDA
#include "native/ffi/gpu_handlers.h"
#endif

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
#ifdef JP_WITH_CUDA
  nb::dict cuda;
  cuda["jax_persistent.forward"] = Handler(jp::ffi::GpuForward);
  cuda["jax_persistent.backward"] = Handler(jp::ffi::GpuBackward);
  platforms["CUDA"] = cuda;
#endif
  return platforms;
}

nb::dict PassAsDict(const jp::CpuPass& pass) {
  nb::dict d;
  d["workers"] = pass.workers;
  d["by_rows"] = pass.by_rows();
  d["panels"] = pass.panels;
  d["panel_vectors"] = pass.vectors;
  d["tile_rows"] = pass.tile_rows;
  d["packed_bytes"] = pass.packed_bytes;
  d["worker_bytes"] = pass.slice_bytes;
  return d;
}

nb::dict PlanCpu(const std::string& cell, int64_t hidden, int64_t batch, int64_t steps,
                 int weight_bytes, int threads, int lanes, int registers, int64_t l2_bytes,
                 int64_t l3_bytes) {
  const jp::CellTraits* traits = jp::FindCell(cell);
  if (traits == nullptr) throw nb::value_error(("unknown cell '" + cell + "'").c_str());
  const jp::CpuFacts facts{threads, lanes, registers, l2_bytes, l3_bytes};
  const jp::CpuPlan plan = jp::PlanCpu(*traits, hidden, batch, steps, weight_bytes, facts);
  nb::dict d;
  d["forward"] = PassAsDict(plan.forward);
  d["backward"] = PassAsDict(plan.backward);
  d["residency"] = std::string(plan.residency);
  d["explanation"] = jp::Explain(plan, facts);
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

jp::GpuNumber NumberOf(const std::string& number) {
  if (number == "bfloat16") return jp::GpuNumber::kBfloat16;
  if (number == "float16") return jp::GpuNumber::kFloat16;
  if (number == "tf32") return jp::GpuNumber::kTf32;
  if (number == "float32") return jp::GpuNumber::kFloat32;
  throw nb::value_error(("unknown number '" + number + "'").c_str());
}

nb::dict PlanGpu(const std::string& cell, bool backward, const std::string& number, int64_t groups,
                 int64_t batch, int64_t hidden, const std::string& exchange, int architecture,
                 int processors, int shared_bytes, int cluster_blocks, int64_t l2_bytes) {
  const jp::CellTraits* traits = jp::FindCell(cell);
  if (traits == nullptr) throw nb::value_error(("unknown cell '" + cell + "'").c_str());
  const auto residency = jp::ResidencyOf(exchange);
  if (!residency) throw nb::value_error(("unknown exchange '" + exchange + "'").c_str());
  const jp::GpuFacts facts{architecture, processors, shared_bytes, cluster_blocks, l2_bytes};
  const jp::GpuPlan plan =
      jp::PlanGpu({*traits, backward, NumberOf(number), groups, batch, hidden}, facts, *residency);
  nb::dict d;
  d["runs"] = plan.runs;
  d["residency"] = plan.residency;
  d["explanation"] = plan.explanation;
  d["workers"] = plan.pass.slices;
  d["teams"] = plan.teams;
  d["tiles_per_team"] = plan.pass.tiles_per_team;
  d["warps_for_units"] = plan.pass.warps_m;
  d["warps_for_depth"] = plan.pass.warps_k;
  d["chunks"] = plan.pass.warp_chunks;
  d["shared_chunks"] = plan.pass.shared_chunks;
  d["streamed_chunks"] = plan.pass.stream_chunks;
  d["shared_bytes"] = plan.pass.shared_bytes;
  d["packed_bytes"] = plan.weight_bytes;
  return d;
}

nb::dict AsDict(const jp::GpuFacts& facts) {
  nb::dict d;
  d["architecture"] = facts.architecture;
  d["processors"] = facts.processors;
  d["shared_bytes"] = facts.shared_bytes;
  d["cluster_blocks"] = facts.cluster_blocks;
  d["l2_bytes"] = facts.l2_bytes;
  return d;
}

nb::dict GpuFacts(int architecture) { return AsDict(jp::GpuOfArchitecture(architecture)); }

#ifdef JP_WITH_CUDA
nb::dict GpuDeviceFacts(int ordinal) { return AsDict(jp::ffi::FactsOfGpu(ordinal)); }
#else
nb::dict GpuDeviceFacts(int /*ordinal*/) {
  throw std::runtime_error("this build has no CUDA kernels");
}
#endif

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "jax_persistent's native kernels.";
  m.def("targets", &Targets);
  m.def("ffi_version", [] { return std::pair(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  m.def("cpu_isa", [] { return std::string(jp::cpu::ChosenIsa().name); });
  m.def("cpu_facts", &CpuFacts, nb::arg("threads"));
  m.def("plan_cpu", &PlanCpu, nb::arg("cell"), nb::arg("hidden"), nb::arg("batch"),
        nb::arg("steps"), nb::arg("weight_bytes"), nb::arg("threads"), nb::arg("lanes"),
        nb::arg("registers"), nb::arg("l2_bytes"), nb::arg("l3_bytes"));
  m.def("cuda_architectures", [] { return std::string(JP_CUDA_ARCHITECTURES); });
  m.def("gpu_facts", &GpuFacts, nb::arg("architecture"));
  m.def("gpu_device_facts", &GpuDeviceFacts, nb::arg("ordinal"));
  m.def("plan_gpu", &PlanGpu, nb::arg("cell"), nb::arg("backward"), nb::arg("number"),
        nb::arg("groups"), nb::arg("batch"), nb::arg("hidden"), nb::arg("exchange"),
        nb::arg("architecture"), nb::arg("processors"), nb::arg("shared_bytes"),
        nb::arg("cluster_blocks"), nb::arg("l2_bytes"));
}
