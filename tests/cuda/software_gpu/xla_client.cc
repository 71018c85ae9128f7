// SPDX-License-Identifier: Apache-2.0
// Lets XLA's CPU client call the handlers that its GPU client calls on a GPU.
//
// The handlers are the package's own. What a CPU client lacks is put in between: the initialize
// stage before each execution, and a stream, of the software GPU with the device's ordinal. What a
// GPU client forbids is an error here, too: memory asked for, and modules loaded or devices asked,
// while a program executes. All else is XLA's.
#include <string>

#include "tests/cuda/software_gpu/software_gpu.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int kSlots = 8;

struct Handlers {
  XLA_FFI_Handler* initialize;
  XLA_FFI_Handler* execute;
};
Handlers slots[kSlots];

const XLA_FFI_Api* real_api = nullptr;  // the same at every call

XLA_FFI_Error* Refuse(const char* message) {
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = XLA_FFI_Error_Code_FAILED_PRECONDITION;
  return real_api->XLA_FFI_Error_Create(&args);
}

XLA_FFI_Error* GetStream(XLA_FFI_Stream_Get_Args* stream) {
  XLA_FFI_DeviceOrdinal_Get_Args args{};
  args.struct_size = XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE;
  args.ctx = stream->ctx;
  if (XLA_FFI_Error* error = real_api->XLA_FFI_DeviceOrdinal_Get(&args)) return error;
  stream->stream = SoftwareGpuStream(args.device_ordinal);
  return stream->stream != nullptr ? nullptr : Refuse("the software GPU has no such device");
}

XLA_FFI_Error* Allocate(XLA_FFI_DeviceMemory_Allocate_Args* /*args*/) {
  return Refuse("memory is asked for while a program executes");
}

XLA_FFI_Error* InitializeAndExecute(const Handlers& handlers, XLA_FFI_CallFrame* frame) {
  if (frame->extension_start != nullptr) return handlers.execute(frame);  // asks for metadata
  real_api = frame->api;
  XLA_FFI_Api api = *frame->api;
  api.XLA_FFI_Stream_Get = GetStream;
  api.XLA_FFI_DeviceMemory_Allocate = Allocate;
  XLA_FFI_CallFrame own = *frame;
  own.api = &api;
  own.stage = XLA_FFI_ExecutionStage_INITIALIZE;
  if (XLA_FFI_Error* error = handlers.initialize(&own)) return error;
  own.stage = XLA_FFI_ExecutionStage_EXECUTE;
  const int64_t before = SoftwareGpuPreparations();
  XLA_FFI_Error* const error = handlers.execute(&own);
  frame->future = own.future;
  if (error != nullptr || SoftwareGpuPreparations() == before) return error;
  return Refuse("a module is loaded or a device asked while a program executes");
}

template <int kSlot>
XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame) {
  return InitializeAndExecute(slots[kSlot], frame);
}

constexpr XLA_FFI_Handler* kExecute[kSlots] = {Execute<0>, Execute<1>, Execute<2>, Execute<3>,
                                               Execute<4>, Execute<5>, Execute<6>, Execute<7>};

}  // namespace

// The execute handler for a CPU client, of a target's own two. `slot`: one for each target.
extern "C" void* SoftwareGpuHandler(int slot, void* initialize, void* execute) {
  if (slot < 0 || slot >= kSlots) return nullptr;
  slots[slot] = {reinterpret_cast<XLA_FFI_Handler*>(initialize),
                 reinterpret_cast<XLA_FFI_Handler*>(execute)};
  return reinterpret_cast<void*>(kExecute[slot]);
}
