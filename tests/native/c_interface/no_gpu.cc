// SPDX-License-Identifier: Apache-2.0
// In the CUDA backend's place, which takes sanitizers longer to compile than all else here: what it
// is on a machine without a driver.
#include <stdexcept>

#include "cuda/backend.h"

namespace jp::cuda {
namespace {

[[noreturn]] void Absent() { throw std::logic_error("the caller has not asked what is missing"); }

class NoGpu : public Backend {
 public:
  std::string_view Platform() const override { return "CUDA"; }
  Executor KindOfExecutor() const override { return Executor::kStream; }
  std::string Missing() const override { return "no-driver"; }

  Facts FactsOf(const Resources&) const override { Absent(); }
  std::unique_ptr<Plan> MakePlan(const Problem&, const Facts&, const Options&) const override {
    Absent();
  }
  std::string Run(const Plan&, const Forward&, void*, const Resources&) const override { Absent(); }
  std::string Run(const Plan&, const Backward&, void*, const Resources&) const override {
    Absent();
  }
  std::unique_ptr<Plan> MakeProgramPlan(Program, const Facts&, const Options&) const override {
    Absent();
  }
  std::string RunProgram(const Plan&, std::span<const void* const>, std::span<void* const>, void*,
                         const Resources&) const override {
    Absent();
  }
};

}  // namespace

const Backend& TheBackend() {
  static const NoGpu backend;
  return backend;
}

}  // namespace jp::cuda
