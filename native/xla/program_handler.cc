// SPDX-License-Identifier: Apache-2.0
// Decodes a program when XLA instantiates an executable, and runs it when it executes.
#include "native/xla/program_handler.h"

#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/backends.h"
#include "native/programs/program.h"
#include "native/xla/stage.h"

namespace jp::ffi {
namespace {

namespace xffi = ::xla::ffi;

// A program, and its plan for each number of threads that has run it.
struct ProgramState {
  static inline xffi::TypeId id = XLA_FFI_UNKNOWN_TYPE_ID;
  Program program;
  std::mutex mutex;
  std::map<int, std::unique_ptr<Plan>> plans;

  const Plan& For(int threads) {
    const std::lock_guard lock(mutex);
    std::unique_ptr<Plan>& plan = plans[threads];
    if (plan == nullptr) {
      Resources where;
      where.threads = threads;
      plan = PoolBackend().MakeProgramPlan(program, PoolBackend().FactsOf(where));
    }
    return *plan;
  }
};

template <class T>
T Attribute(const xffi::Dictionary& attributes, const char* name) {
  const auto found = attributes.get<T>(name);
  if (found.has_error()) throw std::invalid_argument(std::string(name) + " is missing or no such");
  return *found;
}

xffi::ErrorOr<std::unique_ptr<ProgramState>> Instantiate(xffi::Dictionary attributes) {
  try {
    const auto code = Attribute<xffi::Span<const int64_t>>(attributes, "code");
    const auto literals = Attribute<xffi::Span<const float>>(attributes, "literals");
    const auto layouts = Attribute<xffi::Span<const int64_t>>(attributes, "layouts");
    auto state = std::make_unique<ProgramState>();
    state->program = ParseProgram(
        {code.begin(), code.size()}, {literals.begin(), literals.size()},
        {layouts.begin(), layouts.size()}, Attribute<int64_t>(attributes, "steps"),
        Attribute<int64_t>(attributes, "groups"), Attribute<int64_t>(attributes, "rows"),
        Attribute<bool>(attributes, "reverse"));
    return state;
  } catch (...) {
    return xffi::Unexpected(CurrentError(kProgramTarget));
  }
}

xffi::DataType TypeOf(ValueType type) {
  return type == ValueType::kFloat32    ? xffi::DataType::F32
         : type == ValueType::kBfloat16 ? xffi::DataType::BF16
                                        : xffi::DataType::PRED;
}

// Checks a buffer against an array's size and type.
void Check(const xffi::AnyBuffer& buffer, const ProgramArray& array, int64_t steps,
           const Program& program) {
  const int64_t groups = array.has_groups ? program.groups : 1;
  const int64_t rows = array.has_rows ? program.rows : 1;
  const auto size = static_cast<size_t>(steps * groups * rows * array.features);
  if (buffer.element_count() != size || buffer.element_type() != TypeOf(array.type)) {
    throw std::invalid_argument("a buffer is not of the program's size or type");
  }
}

xffi::Error Execute(ProgramState* state, xffi::RemainingArgs operands, xffi::RemainingRets results,
                    xffi::ThreadPool pool) {
  try {
    const Program& program = state->program;
    const size_t consts = program.consts, carries = program.carries;
    if (operands.size() != program.operands.size() ||
        results.size() != carries + program.ys.size()) {
      throw std::invalid_argument("the number of buffers is not the program's");
    }
    std::vector<const void*> from(operands.size());
    std::vector<void*> to(results.size());
    for (size_t i = 0; i < operands.size(); ++i) {
      const auto buffer = operands.get<xffi::AnyBuffer>(i);
      if (buffer.has_error()) throw std::invalid_argument("an operand is no buffer");
      Check(*buffer, program.operands[i], i < consts + carries ? 1 : program.steps, program);
      from[i] = buffer->untyped_data();
    }
    for (size_t i = 0; i < results.size(); ++i) {
      auto buffer = results.get<xffi::AnyBuffer>(i);
      if (buffer.has_error()) throw std::invalid_argument("a result is no buffer");
      ProgramArray array = i < carries ? program.operands[consts + i] : program.ys[i - carries];
      array.has_groups = array.has_rows = true;
      Check(**buffer, array, i < carries ? 1 : program.steps, program);
      to[i] = (*buffer)->untyped_data();
    }
    const Resources resources = OnPool(pool);
    const std::string error =
        PoolBackend().RunProgram(state->For(resources.threads), from, to, resources);
    if (!error.empty()) throw std::runtime_error(error);
  } catch (...) {
    return CurrentError(kProgramTarget);
  }
  return xffi::Error::Success();
}

// XLA must know the state's type before the handler that makes it; see handlers.cc.
XLA_FFI_Error* RegisterState(const XLA_FFI_Api* api) {
  if (ProgramState::id != XLA_FFI_UNKNOWN_TYPE_ID) return nullptr;
  static const XLA_FFI_TypeInfo info = xffi::MakeTypeInfo<ProgramState>();
  return xffi::Ffi::RegisterTypeId(api, "jax_persistent.program", &ProgramState::id, &info);
}

}  // namespace

XLA_FFI_Error* InstantiateProgram(XLA_FFI_CallFrame* frame) {
  const bool asks_for_metadata = frame->extension_start != nullptr &&
                                 frame->extension_start->type == XLA_FFI_Extension_Metadata;
  if (asks_for_metadata) {
    if (XLA_FFI_Error* error = RegisterState(frame->api)) return error;
  }
  static const auto* const handler =
      xffi::Ffi::BindInstantiate().Attrs<xffi::Dictionary>().To(Instantiate).release();
  return handler->Call(frame);
}

XLA_FFI_Error* ExecuteProgram(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Ctx<xffi::State<ProgramState>>()
                                         .RemainingArgs()
                                         .RemainingRets()
                                         .Ctx<xffi::ThreadPool>()
                                         .To(Execute)
                                         .release();
  return handler->Call(frame);
}

}  // namespace jp::ffi
