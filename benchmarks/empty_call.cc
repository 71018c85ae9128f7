// SPDX-License-Identifier: Apache-2.0
// A custom call that does nothing: what XLA and jax take for any call at all.
#include "xla/ffi/api/ffi.h"

namespace xffi = ::xla::ffi;

static xffi::Error Nothing(xffi::RemainingArgs, xffi::RemainingRets) {
  return xffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(EmptyCall, Nothing,
                              xffi::Ffi::Bind().RemainingArgs().RemainingRets());
