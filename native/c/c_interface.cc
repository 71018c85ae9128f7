// SPDX-License-Identifier: Apache-2.0
// The functions of jax_persistent.h: what a backend of the list does for a C program.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "native/c/errors.h"
#include "native/c/handles.h"
#include "native/c/jax_persistent.h"
#include "native/c/structs.h"

namespace jp::c {
namespace {

const char* NameOf(Pass pass) { return pass == Pass::kForward ? "forward" : "backward"; }

void CheckPass(const jp_plan& plan, Pass pass) {
  if (plan.problem.pass == pass) return;
  throw std::invalid_argument(std::string("plan: expected one of the ") + NameOf(pass) +
                              " pass; got one of the " + NameOf(plan.problem.pass) + " pass");
}

void CheckWorkspace(const jp_plan& plan, const void* workspace, size_t bytes) {
  const auto needed = static_cast<size_t>(plan.plan->WorkspaceBytes());
  if (bytes < needed) {
    throw std::invalid_argument("workspace: expected at least " + std::to_string(needed) +
                                " bytes, as jp_plan_workspace_bytes says; got " +
                                std::to_string(bytes));
  }
  if (needed > 0) CheckNotNull(workspace, "workspace");
  CheckAlignment(workspace, JP_ALIGNMENT, "workspace");
}

template <class Arrays>
jp_status Run(const jp_plan* plan, Pass pass, const Arrays* arrays, const char* struct_name,
              void* workspace, size_t workspace_bytes, void* stream) {
  return Guarded([&] {
    CheckNotNull(plan, "plan");
    CheckPass(*plan, pass);
    const auto taken = ArraysOf(plan->problem, Versioned(arrays, struct_name));
    CheckWorkspace(*plan, workspace, workspace_bytes);
    const Device& device = *plan->device;
    const bool has_stream = device.backend->KindOfExecutor() == Executor::kStream;
    if (stream != nullptr && !has_stream) {
      throw std::invalid_argument("stream: expected NULL, as a CPU has none; got an address");
    }
    Resources where = device.resources;
    where.stream = stream;
    const std::string error = device.backend->Run(*plan->plan, taken, workspace, where);
    if (!error.empty()) throw std::runtime_error(error);
  });
}

void CheckBytes(size_t bytes, const ArrayType& array, DType dtype, const char* name) {
  const size_t expected = BytesOf(array, dtype);
  if (bytes == expected) return;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(expected) +
                              " bytes of " + array.name + "; got " + std::to_string(bytes));
}

const ArrayType& ArrayNamed(const std::vector<ArrayType>& arrays, const std::string& name) {
  return *std::find_if(arrays.begin(), arrays.end(),
                       [&](const ArrayType& array) { return array.name == name; });
}

void Pack(const jp_plan& plan, jp_kernel which, const void* kernel, size_t kernel_bytes,
          void* packed, size_t packed_bytes) {
  const Problem& problem = plan.problem;
  if (problem.packed_lanes == 0) {
    throw std::invalid_argument("plan: expected one of the forward pass of a packed problem");
  }
  if (which != JP_INPUT_KERNEL && which != JP_RECURRENT_KERNEL) {
    throw std::invalid_argument("which: expected JP_INPUT_KERNEL or JP_RECURRENT_KERNEL; got " +
                                std::to_string(which));
  }
  const char* const name = which == JP_INPUT_KERNEL ? "input_kernel" : "recurrent_kernel";
  Problem plain = problem;
  plain.packed_lanes = 0;
  CheckNotNull(kernel, "kernel");
  CheckNotNull(packed, "packed");
  CheckAlignment(kernel, JP_ALIGNMENT, "kernel");
  CheckAlignment(packed, JP_ALIGNMENT, "packed");
  CheckBytes(kernel_bytes, ArrayNamed(ArrayTypesOf(plain).operands, name), problem.dtype, "kernel");
  CheckBytes(packed_bytes, ArrayNamed(plan.arrays, name), problem.dtype, "packed");
  const Packing packing{problem.dtype,  problem.cell.gates,
                        problem.groups, which == JP_INPUT_KERNEL ? problem.inputs : problem.hidden,
                        problem.hidden, problem.packed_lanes};
  const Device& device = *plan.device;
  const std::string error = device.backend->Pack(packing, kernel, packed, device.resources);
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace
}  // namespace jp::c

const char* jp_last_error() noexcept { return jp::c::LastError(); }

const char* jp_status_name(jp_status status) noexcept {
  switch (status) {
    case JP_OK: return "JP_OK";
    case JP_INVALID_ARGUMENT: return "JP_INVALID_ARGUMENT";
    case JP_UNSUPPORTED: return "JP_UNSUPPORTED";
    case JP_UNAVAILABLE: return "JP_UNAVAILABLE";
    case JP_OUT_OF_MEMORY: return "JP_OUT_OF_MEMORY";
    case JP_FAILED: return "JP_FAILED";
    default: return "an unknown status";
  }
}

int32_t jp_version() noexcept { return JP_VERSION; }

jp_status jp_device_create(const jp_device_options* options, jp_device** device) noexcept {
  return jp::c::Guarded([&] {
    jp::c::CheckNotNull(device, "device");
    const jp_device_options none{sizeof(jp_device_options), nullptr, 0, 0, nullptr};
    const auto known = jp::c::Versioned(options ? options : &none, "jp_device_options");
    *device = new jp_device{jp::c::MakeDevice(known)};
  });
}

void jp_device_destroy(jp_device* device) noexcept { delete device; }

jp_status jp_plan_create(const jp_device* device, const jp_problem* problem, jp_pass pass,
                         jp_plan** plan) noexcept {
  return jp::c::Guarded([&] {
    jp::c::CheckNotNull(device, "device");
    jp::c::CheckNotNull(plan, "plan");
    const auto known = jp::c::Versioned(problem, "jp_problem");
    *plan = jp::c::MakePlan(device->shared, known, pass).release();
  });
}

void jp_plan_destroy(jp_plan* plan) noexcept { delete plan; }

jp_status jp_plan_workspace_bytes(const jp_plan* plan, size_t* bytes) noexcept {
  return jp::c::Guarded([&] {
    jp::c::NotNull(bytes, "bytes") =
        static_cast<size_t>(jp::c::NotNull(plan, "plan").plan->WorkspaceBytes());
  });
}

jp_status jp_plan_text(const jp_plan* plan, const char** text) noexcept {
  return jp::c::Guarded(
      [&] { jp::c::NotNull(text, "text") = jp::c::NotNull(plan, "plan").text.c_str(); });
}

jp_status jp_plan_array_count(const jp_plan* plan, size_t* count) noexcept {
  return jp::c::Guarded(
      [&] { jp::c::NotNull(count, "count") = jp::c::NotNull(plan, "plan").arrays.size(); });
}

jp_status jp_plan_array(const jp_plan* plan, size_t index, jp_array_info* info) noexcept {
  return jp::c::Guarded([&] {
    const auto& arrays = jp::c::NotNull(plan, "plan").arrays;
    jp_array_info known = jp::c::Versioned(info, "jp_array_info");
    if (index >= arrays.size()) {
      throw std::invalid_argument("index: expected less than " + std::to_string(arrays.size()) +
                                  "; got " + std::to_string(index));
    }
    const jp::ArrayType& array = arrays[index];
    const jp::Problem& problem = plan->problem;
    const bool is_state = array.type == jp::OperandType::kState;
    const jp::DType element = is_state ? problem.StateDType() : problem.dtype;
    known = {known.struct_size,
             array.name.c_str(),
             index >= plan->operands,
             jp::c::DTypeOf(array.type, element),
             static_cast<int32_t>(array.sizes.size()),
             0,
             {},
             jp::c::BytesOf(array, element)};
    std::copy(array.sizes.begin(), array.sizes.end(), known.sizes);
    std::memcpy(info, &known, sizeof known);
  });
}

jp_status jp_forward(const jp_plan* plan, const jp_forward_arrays* arrays, void* workspace,
                     size_t workspace_bytes, void* stream) noexcept {
  return jp::c::Run(plan, jp::Pass::kForward, arrays, "jp_forward_arrays", workspace,
                    workspace_bytes, stream);
}

jp_status jp_backward(const jp_plan* plan, const jp_backward_arrays* arrays, void* workspace,
                      size_t workspace_bytes, void* stream) noexcept {
  return jp::c::Run(plan, jp::Pass::kBackward, arrays, "jp_backward_arrays", workspace,
                    workspace_bytes, stream);
}

jp_status jp_pack(const jp_plan* plan, jp_kernel which, const void* kernel, size_t kernel_bytes,
                  void* packed, size_t packed_bytes) noexcept {
  return jp::c::Guarded([&] {
    jp::c::Pack(jp::c::NotNull(plan, "plan"), which, kernel, kernel_bytes, packed, packed_bytes);
  });
}
