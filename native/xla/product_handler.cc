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
using Result = xffi::Buffer<xffi::F32, 3>;  // of each head
using Dimensions = xffi::Span<const int64_t>;

// Whether the right matrix is of the product's depth and columns, of all heads.
bool IsRight(const Product& product, const Dimensions& is) {
  if (product.packed_lanes == 0) {
    return is.size() == 2 && is[product.right_transposed] == product.depth &&
           is[!product.right_transposed] == product.heads * product.columns;
  }
  return is.size() == 3 && is[0] == PanelCount(1, product.columns, product.packed_lanes) &&
         is[1] == product.depth && is[2] == PanelVectors(1) * product.packed_lanes;
}

Product Checked(const Matrix& left, const xffi::AnyBuffer& right, const Result& result,
                bool left_transposed, bool right_transposed, int64_t packed_lanes) {
  if (packed_lanes < 0 || packed_lanes > 1024 || (packed_lanes != 0 && right_transposed)) {
    throw std::invalid_argument("packed_lanes: expected as many as a vector has, and rows");
  }
  const auto l = left.dimensions(), made = result.dimensions();
  const Product product{made[1],          l[!left_transposed], made[2], left_transposed,
                        right_transposed, packed_lanes,        made[0]};
  if (product.heads != 1 && (!left_transposed || right_transposed || packed_lanes != 0)) {
    throw std::invalid_argument(
        "expected a left matrix that is transposed alone, of several heads");
  }
  if (l[left_transposed] != product.heads * product.rows || right.element_type() != xffi::F32 ||
      !IsRight(product, right.dimensions())) {
    throw std::invalid_argument("the matrices' sizes differ");
  }
  if (product.heads < 1 || product.rows < 1 || product.columns < 1 || product.depth < 2 ||
      product.depth % 2 != 0) {
    throw std::invalid_argument(
        "expected matrices of an even depth; got " + std::to_string(product.rows) + " x " +
        std::to_string(product.depth) + " x " + std::to_string(product.columns));
  }
  return product;
}

xffi::Error Execute(Matrix left, xffi::AnyBuffer right, xffi::Result<Result> result,
                    bool left_transposed, bool right_transposed, int64_t packed_lanes,
                    xffi::ThreadPool pool) {
  return Guarded(kProductTarget, [&] {
    const Product product =
        Checked(left, right, *result, left_transposed, right_transposed, packed_lanes);
    jp::UseHugePages({{reinterpret_cast<char*>(result->typed_data()), result->size_bytes()}});
    const auto* const weights = static_cast<const float*>(right.untyped_data());
    const std::string error = PoolBackend().Multiply(product, left.typed_data(), weights,
                                                     result->typed_data(), OnPool(pool));
    if (!error.empty()) throw std::invalid_argument(error);
  });
}

}  // namespace

XLA_FFI_Error* ExecuteProduct(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Arg<Matrix>()
                                         .Arg<xffi::AnyBuffer>()
                                         .Ret<Result>()
                                         .Attr<bool>("left_transposed")
                                         .Attr<bool>("right_transposed")
                                         .Attr<int64_t>("packed_lanes")
                                         .Ctx<xffi::ThreadPool>()
                                         .To(Execute)
                                         .release();
  return handler->Call(frame);
}

}  // namespace jp::ffi
