// SPDX-License-Identifier: Apache-2.0
// Decodes a program when XLA instantiates an executable, and runs it when it executes.
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/backends.h"
#include "native/problem/packed.h"
#include "native/programs/program.h"
#include "native/xla/handlers.h"
#include "native/xla/stage.h"

namespace jp::ffi {
namespace {

namespace xffi = ::xla::ffi;

// A program, and its plan for each number of threads or device that has run it.
class PlannedProgram {
 public:
  // Plans and compiles for the places where it may run. Throws std::exception where that fails, and
  // std::invalid_argument where all of them refuse it.
  PlannedProgram(const Backend& backend, Program program, Options options)
      : backend_(backend), program_(std::move(program)), options_(std::move(options)) {
    std::string refusal;
    bool runs = false;
    for (const Resources& place : backend_.Places()) {
      const std::string why = For(place).Refusal();
      runs = runs || why.empty();
      if (!why.empty()) refusal = why;
    }
    if (!runs && !refusal.empty()) throw std::invalid_argument(refusal);
  }

  const Plan& For(const Resources& where) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Plan>& plan = plans_[{where.threads, where.device}];
    if (plan == nullptr) {
      auto made = backend_.MakeProgramPlan(program_, backend_.FactsOf(where), options_);
      if (made->Refusal().empty()) backend_.Compile(*made);
      plan = std::move(made);
    }
    return *plan;
  }

  const Backend& backend() const { return backend_; }
  const Program& program() const { return program_; }

 private:
  const Backend& backend_;
  const Program program_;
  const Options options_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::unique_ptr<Plan>> plans_;
};

// XLA has one registry of types for each platform: each needs one of its own.
template <size_t kBackend>
struct ProgramState {
  static inline xffi::TypeId id = XLA_FFI_UNKNOWN_TYPE_ID;
  PlannedProgram planned;
};

template <class T>
T Attribute(const xffi::Dictionary& attributes, const char* name) {
  const auto found = attributes.get<T>(name);
  if (found.has_error()) throw std::invalid_argument(std::string(name) + " is missing or no such");
  return *found;
}

template <size_t kBackend>
xffi::ErrorOr<std::unique_ptr<ProgramState<kBackend>>> Instantiate(xffi::Dictionary attributes) {
  try {
    const auto code = Attribute<xffi::Span<const int64_t>>(attributes, "code");
    const auto literals = Attribute<xffi::Span<const float>>(attributes, "literals");
    const auto layouts = Attribute<xffi::Span<const int64_t>>(attributes, "layouts");
    Program program = ParseProgram(
        {code.begin(), code.size()}, {literals.begin(), literals.size()},
        {layouts.begin(), layouts.size()}, Attribute<int64_t>(attributes, "steps"),
        Attribute<int64_t>(attributes, "groups"), Attribute<int64_t>(attributes, "rows"),
        Attribute<bool>(attributes, "reverse"), Attribute<bool>(attributes, "tf32"),
        Attribute<int64_t>(attributes, "packed_lanes"));
    Options options;
    const char* const exchange = "exchange";  // of those backends that have a choice
    if (attributes.contains(exchange)) {
      options[exchange] = Attribute<std::string_view>(attributes, exchange);
    }
    return std::unique_ptr<ProgramState<kBackend>>(new ProgramState<kBackend>{
        {*Backends()[kBackend], std::move(program), std::move(options)}});
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
  const int64_t values = array.is_packed ? PackedMatrixValues(array.features / array.columns,
                                                              array.columns, program.packed_lanes)
                                         : array.features;
  const auto size = static_cast<size_t>(steps * groups * rows * values);
  if (buffer.element_count() != size || buffer.element_type() != TypeOf(array.type)) {
    throw std::invalid_argument("a buffer is not of the program's size or type");
  }
}

struct Buffers {
  std::vector<const void*> operands;
  std::vector<void*> results;
  void* workspace = nullptr;
};

// The pointers to buffers that are of the program's sizes and types; behind its own results, those
// of a stream have the workspace. Throws std::invalid_argument.
Buffers TakeBuffers(const PlannedProgram& planned, const Plan& plan,
                    const xffi::RemainingArgs& operands, const xffi::RemainingRets& results) {
  const Program& program = planned.program();
  const size_t consts = program.consts, carries = program.carries;
  const size_t given = program.operands.size();
  const size_t made = carries + program.ys.size();
  const bool has_workspace = planned.backend().KindOfExecutor() == Executor::kStream;
  if (operands.size() != given + program.Products() || results.size() != made + has_workspace) {
    throw std::invalid_argument("the number of buffers is not the program's");
  }
  Buffers buffers;
  const auto take = [&](const ProgramArray& array, int64_t steps) {
    const auto buffer = operands.get<xffi::AnyBuffer>(buffers.operands.size());
    if (buffer.has_error()) throw std::invalid_argument("an operand is no buffer");
    Check(*buffer, array, steps, program);
    buffers.operands.push_back(buffer->untyped_data());
  };
  for (size_t i = 0; i < given; ++i) {
    ProgramArray array = program.operands[i];
    if (array.depth > 0) array.features = array.depth;
    take(array, i < consts + carries ? 1 : program.steps);
  }
  for (const ProgramArray& array : program.operands) {
    if (array.depth > 0) take({array.depth * array.features, array.type}, 1);
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<xffi::AnyBuffer>(i);
    if (buffer.has_error()) throw std::invalid_argument("a result is no buffer");
    if (i == made) {
      const auto bytes = static_cast<int64_t>((*buffer)->size_bytes());
      if (bytes < plan.WorkspaceBytes()) {
        throw std::invalid_argument("workspace: expected at least " +
                                    std::to_string(plan.WorkspaceBytes()) + " bytes; got " +
                                    std::to_string(bytes));
      }
      buffers.workspace = (*buffer)->untyped_data();
      continue;
    }
    ProgramArray array = i < carries ? program.operands[consts + i] : program.ys[i - carries];
    array.has_groups = array.has_rows = true;
    Check(**buffer, array, i < carries ? 1 : program.steps, program);
    buffers.results.push_back((*buffer)->untyped_data());
  }
  return buffers;
}

xffi::Error Initialize(PlannedProgram& planned, const Resources& resources) {
  return Guarded(kProgramTarget, [&] {
    const Plan& plan = planned.For(resources);
    if (plan.Refusal().empty()) planned.backend().Load(plan, resources);
  });
}

xffi::Error Execute(PlannedProgram& planned, const xffi::RemainingArgs& operands,
                    const xffi::RemainingRets& results, const Resources& resources) {
  return Guarded(kProgramTarget, [&] {
    const Plan& plan = planned.For(resources);
    if (!plan.Refusal().empty()) throw std::invalid_argument(plan.Refusal());
    const Buffers buffers = TakeBuffers(planned, plan, operands, results);
    if (planned.backend().KindOfExecutor() == Executor::kThreadPool) UseHugePages(results);
    const std::string error = planned.backend().RunProgram(plan, buffers.operands, buffers.results,
                                                           buffers.workspace, resources);
    if (!error.empty()) throw std::runtime_error(error);
  });
}

template <size_t kBackend>
xffi::Error ExecuteOnPool(ProgramState<kBackend>* state, xffi::RemainingArgs operands,
                          xffi::RemainingRets results, xffi::ThreadPool pool) {
  return Execute(state->planned, operands, results, OnPool(pool));
}

template <size_t kBackend>
xffi::Error InitializeOnStream(ProgramState<kBackend>* state, xffi::RemainingArgs /*operands*/,
                               xffi::RemainingRets /*results*/, void* stream, int32_t device) {
  return Initialize(state->planned, OnStream(stream, device));
}

template <size_t kBackend>
xffi::Error ExecuteOnStream(ProgramState<kBackend>* state, xffi::RemainingArgs operands,
                            xffi::RemainingRets results, void* stream, int32_t device) {
  return Execute(state->planned, operands, results, OnStream(stream, device));
}

template <size_t kBackend>
XLA_FFI_Error* CallInstantiate(XLA_FFI_CallFrame* frame) {
  const std::string name =
      "jax_persistent.programs." + std::string(Backends()[kBackend]->Platform());
  if (XLA_FFI_Error* error = RegisterState<ProgramState<kBackend>>(frame, name)) return error;
  static const auto* const handler =
      xffi::Ffi::BindInstantiate().Attrs<xffi::Dictionary>().To(Instantiate<kBackend>).release();
  return handler->Call(frame);
}

template <size_t kBackend>
XLA_FFI_Error* CallExecuteOnPool(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = xffi::Ffi::BindExecute()
                                         .Ctx<xffi::State<ProgramState<kBackend>>>()
                                         .RemainingArgs()
                                         .RemainingRets()
                                         .template Ctx<xffi::ThreadPool>()
                                         .To(ExecuteOnPool<kBackend>)
                                         .release();
  return handler->Call(frame);
}

template <size_t kBackend>
XLA_FFI_Error* CallInitializeOnStream(XLA_FFI_CallFrame* frame) {
  static const auto* const handler = BindOnStream<ProgramState<kBackend>>(
      xffi::Ffi::BindInitialize(), InitializeOnStream<kBackend>);
  return handler->Call(frame);
}

template <size_t kBackend>
XLA_FFI_Error* CallExecuteOnStream(XLA_FFI_CallFrame* frame) {
  static const auto* const handler =
      BindOnStream<ProgramState<kBackend>>(xffi::Ffi::BindExecute(), ExecuteOnStream<kBackend>);
  return handler->Call(frame);
}

}  // namespace

Stages StagesOfProgram(size_t backend) {
  return ForBackend(backend, []<size_t kBackend>() -> Stages {
    const bool pool = Backends()[kBackend]->KindOfExecutor() == Executor::kThreadPool;
    return {CallInstantiate<kBackend>, pool ? nullptr : CallInitializeOnStream<kBackend>,
            pool ? CallExecuteOnPool<kBackend> : CallExecuteOnStream<kBackend>};
  });
}

}  // namespace jp::ffi
