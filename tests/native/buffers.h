// The buffers of a forward and a backward call on one set of arrays.
#pragma once

#include <memory>
#include <vector>

#include "tests/native/arrays.h"

namespace jp::test {

struct Buffers {
  Buffers(const Arrays& a, const CellTraits& cell)
      : x(a.dtype, a.x),
        input_kernel(a.dtype, a.input_kernel),
        bias(a.dtype, a.bias),
        gates_x(a.dtype, a.gates_x),
        kernel(a.dtype, a.kernel),
        recurrent_bias(a.dtype, a.recurrent_bias),
        outputs(a.dtype, a.outputs.size()),
        saved(a.dtype, a.saved.size()),
        d_outputs(a.dtype, a.d_outputs),
        d_x(a.dtype, a.d_x.size()),
        d_gates_x(a.dtype, a.d_gates_x.size()),
        d_product(a.dtype, a.d_product.size()),
        d_input_kernel(a.dtype, a.d_input_kernel.size()),
        d_bias(a.dtype, a.d_bias.size()),
        d_kernel(a.dtype, a.d_kernel.size()),
        d_recurrent_bias(a.dtype, a.d_recurrent_bias.size()) {
    for (int i = 0; i < cell.states; ++i) {
      initial.push_back(std::make_unique<Buffer>(a.dtype, a.initial[i]));
      final.push_back(std::make_unique<Buffer>(a.dtype, a.final[i].size()));
      d_final.push_back(std::make_unique<Buffer>(a.dtype, a.d_final[i]));
      d_initial.push_back(std::make_unique<Buffer>(a.dtype, a.d_initial[i].size()));
    }
  }

  cpu::Forward forward(const Arrays& a, bool with_saved) {
    cpu::Forward f{};
    f.x = x.data();
    f.input_kernel = input_kernel.data();
    f.bias = bias.data();
    f.gates_x = f.x == nullptr ? gates_x.data() : nullptr;
    f.recurrent_kernel = kernel.data();
    f.recurrent_bias = recurrent_bias.data();
    f.lengths = a.lengths.data();
    f.outputs = outputs.data();
    f.saved = with_saved ? saved.data() : nullptr;
    for (size_t i = 0; i < initial.size(); ++i) {
      f.initial[i] = initial[i]->data();
      f.final[i] = final[i]->data();
    }
    return f;
  }

  cpu::Backward backward(const Arrays& a) {
    cpu::Backward f{};
    f.input_kernel = input_kernel.data();
    f.recurrent_kernel = kernel.data();
    f.lengths = a.lengths.data();
    f.outputs = outputs.data();
    f.saved = saved.data();
    f.d_x = d_x.data();
    f.d_outputs = d_outputs.data();
    f.d_gates_x = d_gates_x.data();
    f.d_product = d_product.data();
    for (size_t i = 0; i < initial.size(); ++i) {
      f.initial[i] = initial[i]->data();
      f.d_final[i] = d_final[i]->data();
      f.d_initial[i] = d_initial[i]->data();
    }
    return f;
  }

  // The same with the gradients of the weights in place of what they are sums of.
  cpu::Backward backward_with_weights(const Arrays& a) {
    cpu::Backward f = backward(a);
    f.x = x.data();
    f.d_gates_x = nullptr;
    f.d_product = nullptr;
    f.d_input_kernel = d_input_kernel.data();
    f.d_bias = d_bias.data();
    f.d_recurrent_kernel = d_kernel.data();
    f.d_recurrent_bias = d_recurrent_bias.data();
    return f;
  }

  std::vector<Buffer*> all() {
    std::vector<Buffer*> list = {
        &x,        &input_kernel,    &bias, &gates_x,   &kernel,    &recurrent_bias, &outputs,
        &saved,    &d_outputs,       &d_x,  &d_gates_x, &d_product, &d_input_kernel, &d_bias,
        &d_kernel, &d_recurrent_bias};
    for (auto* states : {&initial, &final, &d_final, &d_initial}) {
      for (auto& buffer : *states) list.push_back(buffer.get());
    }
    return list;
  }

  Buffer x, input_kernel, bias, gates_x, kernel, recurrent_bias;
  Buffer outputs, saved, d_outputs, d_x, d_gates_x, d_product;
  Buffer d_input_kernel, d_bias, d_kernel, d_recurrent_bias;
  std::vector<std::unique_ptr<Buffer>> initial, final, d_final, d_initial;
};

}  // namespace jp::test
