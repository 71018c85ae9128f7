// SPDX-License-Identifier: Apache-2.0
// Checks what is to be packed, and has the backend of threads pack it.
#include "native/xla/pack_handler.h"

#include <stdexcept>
#include <string>

#include "native/backends.h"
#include "native/problem/packed.h"
#include "native/xla/stage.h"

namespace jp::ffi {
namespace {

namespace xffi = ::xla::ffi;

DType TypeOf(xffi::DataType type) {
  switch (type) {
    case xffi::DataType::F32: return DType::kFloat32;
    case xffi::DataType::BF16: return DType::kBfloat16;
    case xffi::DataType::F16: return DType::kFloat16;
    case xffi::DataType::F64: return DType::kFloat64;
    default: throw std::invalid_argument("kernels: expected floating-point numbers");
  }
}

// From kernels [N, rows, gates * units] to panels [N, panels, rows made even, width].
Packing Checked(const xffi::AnyBuffer& from, const xffi::AnyBuffer& to, int64_t gates,
                int64_t lanes) {
  const auto is = from.dimensions(), becomes = to.dimensions();
  if (is.size() != 3 || becomes.size() != 4 || from.element_type() != to.element_type()) {
    throw std::invalid_argument("expected kernels of rank 3 and panels of rank 4, of one type");
  }
  if (gates < 1 || gates > 64 || lanes < 1 || lanes > 1024 || is[2] % gates != 0) {
    throw std::invalid_argument("gates and lanes: expected at least 1, and columns for all gates");
  }
  const Packing packing{
      TypeOf(from.element_type()), static_cast<int>(gates), is[0], is[1], is[2] / gates, lanes};
  const int64_t sizes[] = {packing.kernels, PanelCount(packing.gates, packing.units, lanes),
                           PackedRows(packing.rows), PanelVectors(packing.gates) * lanes};
  for (size_t i = 0; i < 4; ++i) {
    if (becomes[i] != sizes[i]) {
      throw std::invalid_argument("panels: expected size " + std::to_string(sizes[i]) +
                                  " of dimension " + std::to_string(i) + "; got " +
                                  std::to_string(becomes[i]));
    }
  }
  return packing;
}

xffi::Error Execute(xffi::AnyBuffer from, xffi::Result<xffi::AnyBuffer> to, int64_t gates,
                    int64_t lanes, xffi::ThreadPool pool) {
  return Guarded(kPackTarget, [&] {
    const Packing packing = Checked(from, *to, gates, lanes);
    const std::string error =
        PoolBackend().Pack(packing, from.untyped_data(), to->untyped_data(), OnPool(pool));
    if (!error.empty()) throw std::invalid_argument(error);
  });
}

}  // namespace

XLA_FFI_Error* ExecutePack(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Arg<xffi::AnyBuffer>()
                                         .Ret<xffi::AnyBuffer>()
                                         .Attr<int64_t>("gates")
                                         .Attr<int64_t>("lanes")
                                         .Ctx<xffi::ThreadPool>()
                                         .To(Execute)
                                         .release();
  return handler->Call(frame);
}

}  // namespace jp::ffi
