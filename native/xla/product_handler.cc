// SPDX-License-Identifier: Apache-2.0
// Checks two matrices, and has the backend of threads multiply them.
#include "native/xla/product_handler.h"

#include <stdexcept>
#include <string>

#include "native/backends.h"
#include "native/xla/stage.h"

namespace jp::ffi {
namespace {

namespace xffi = ::xla::ffi;
using Matrix = xffi::Buffer<xffi::F32, 2>;

Product Checked(const Matrix& left, const Matrix& right, const Matrix& result, bool left_transposed,
                bool right_transposed) {
  const auto l = left.dimensions(), r = right.dimensions(), made = result.dimensions();
  const Product product{l[left_transposed], l[!left_transposed], r[!right_transposed],
                        left_transposed, right_transposed};
  if (r[right_transposed] != product.depth || made[0] != product.rows ||
      made[1] != product.columns) {
    throw std::invalid_argument("the matrices' sizes differ");
  }
  if (product.rows < 1 || product.columns < 1 || product.depth < 2 || product.depth % 2 != 0) {
    throw std::invalid_argument(
        "expected matrices of an even depth; got " + std::to_string(product.rows) + " x " +
        std::to_string(product.depth) + " x " + std::to_string(product.columns));
  }
  return product;
}

xffi::Error Execute(Matrix left, Matrix right, xffi::Result<Matrix> result, bool left_transposed,
                    bool right_transposed, xffi::ThreadPool pool) {
  return Guarded(kProductTarget, [&] {
    const Product product = Checked(left, right, *result, left_transposed, right_transposed);
    const std::string error = PoolBackend().Multiply(product, left.typed_data(), right.typed_data(),
                                                     result->typed_data(), OnPool(pool));
    if (!error.empty()) throw std::invalid_argument(error);
  });
}

}  // namespace

XLA_FFI_Error* ExecuteProduct(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Arg<Matrix>()
                                         .Arg<Matrix>()
                                         .Ret<Matrix>()
                                         .Attr<bool>("left_transposed")
                                         .Attr<bool>("right_transposed")
                                         .Ctx<xffi::ThreadPool>()
                                         .To(Execute)
                                         .release();
  return handler->Call(frame);
}

}  // namespace jp::ffi
