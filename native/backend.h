// SPDX-License-Identifier: Apache-2.0
// What a backend offers: it says whether and how it computes a problem on a machine, and does so.
//
// Its callers are XLA's FFI (native/xla), the C interface (native/c) and the Python module, which
// find backends in backends.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "native/problem/arrays.h"
#include "native/problem/packed.h"
#include "native/problem/problem.h"
#include "native/problem/product.h"
#include "native/programs/program.h"

namespace jp {

// What a planner knows of a machine, by name: "threads", "l2_bytes", ...
using Facts = std::map<std::string, int64_t, std::less<>>;

// What a caller asks of a backend besides the problem, by name. A backend refuses those that it
// does not know.
using Options = std::map<std::string, std::string, std::less<>>;

// A plan in words and numbers.
struct Description {
  std::string residency;    // where the weights stay
  std::string explanation;  // why the plan is as it is, or why the problem is refused
  std::vector<std::pair<std::string, int64_t>> numbers;
};

// Where a call runs. Of its fields a backend reads those of its kind of executor.
struct Resources {
  // A pool of threads: their number, and a function that runs a task on one of them at some time.
  int threads = 0;
  std::function<void(std::function<void()>)> schedule;
  // A stream of a device.
  int device = 0;  // its ordinal
  void* stream = nullptr;
};

enum class Executor { kThreadPool, kStream };

// How a backend computes one problem on one machine. Immutable, and used by any number of calls at
// once.
class Plan {
 public:
  virtual ~Plan() = default;
  // Why the backend does not compute the problem. Empty: it does.
  virtual std::string Refusal() const = 0;
  // Memory that a call needs besides its arrays, aligned to kWorkspaceAlignment.
  virtual int64_t WorkspaceBytes() const { return 0; }
  virtual Description Describe() const = 0;
};

inline constexpr size_t kWorkspaceAlignment = 16;  // what XLA promises of any array

// A kernel of the caller's own: a function of a source in the backend's language, which may include
// what the backend's kernels are made of.
struct SourceKernel {
  std::string name, source;
  int blocks, threads, cluster;  // that many blocks make a cluster; 1: there is none
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view Platform() const = 0;  // as XLA calls it: "cpu", "CUDA"
  virtual Executor KindOfExecutor() const = 0;
  // Why this machine can plan for the platform but not run there. Empty: it can.
  virtual std::string Missing() const { return {}; }
  // Files that the backend may open at run time, best first.
  virtual void SearchFor(std::vector<std::string> /*files*/) const {}
  // What there is here, for people: a name and a text each.
  virtual std::vector<std::pair<std::string, std::string>> Report() const { return {}; }

  // Where calls may run, as far as that is known before they do: when a program is compiled. May be
  // empty.
  virtual std::vector<Resources> Places() const { return {Resources{}}; }

  // The facts of this machine. Of `where`, only `threads` and `device` count. Throws
  // std::runtime_error if it cannot tell, or an environment variable is wrong.
  virtual Facts FactsOf(const Resources& where) const = 0;
  // Those of a typical machine of an architecture, for plans without one; empty if it is unknown.
  virtual Facts FactsOfArchitecture(std::string_view /*name*/) const { return {}; }

  // A pure function of its arguments. Precondition: Invalid(problem) is empty. Throws
  // std::invalid_argument where facts or options are missing, unknown or wrong.
  virtual std::unique_ptr<Plan> MakePlan(const Problem& problem, const Facts& facts,
                                         const Options& options) const = 0;

  // Makes what a plan that runs needs and may take long to make, such as compiled kernels; and gets
  // it ready on a device. Run does neither. Each does nothing the second time. They throw
  // std::runtime_error where that fails.
  virtual void Compile(const Plan& /*plan*/) const {}
  virtual void Load(const Plan& /*plan*/, const Resources& /*where*/) const {}

  // Computes, or with a stream enqueues, a problem that is not refused, by a plan that this
  // backend has made for it with FactsOf the same resources. Returns what went wrong, or an empty
  // text. `workspace` has the plan's WorkspaceBytes, which nothing else uses until the call is
  // done; null: a backend that runs on threads takes memory of its own, which it keeps from call to
  // call. May throw std::bad_alloc.
  virtual std::string Run(const Plan& plan, const Forward& arrays, void* workspace,
                          const Resources& resources) const = 0;
  virtual std::string Run(const Plan& plan, const Backward& arrays, void* workspace,
                          const Resources& resources) const = 0;

  // The same for a step function's program, whose operands and results are in its own order. Behind
  // the operands are the matrices that some of them are multiplied with.
  virtual std::unique_ptr<Plan> MakeProgramPlan(Program program, const Facts& facts,
                                                const Options& options) const = 0;
  virtual std::string RunProgram(const Plan& plan, std::span<const void* const> operands,
                                 std::span<void* const> results, void* workspace,
                                 const Resources& resources) const = 0;

  // Packs kernels for problems with packed_lanes. Returns what went wrong, or an empty text.
  virtual std::string Pack(const Packing& /*packing*/, const void* /*from*/, void* /*to*/,
                           const Resources& /*resources*/) const {
    return "this backend reads no packed kernels";
  }

  // Multiplies matrices that XLA gives to a single thread. Returns what went wrong, or an empty
  // text. May throw std::bad_alloc.
  virtual std::string Multiply(const Product& /*product*/, const float* /*left*/,
                               const float* /*right*/, float* /*result*/,
                               const Resources& /*resources*/) const {
    return "this backend multiplies no matrices";
  }

  // Runs a kernel, for measurements and tests, and returns what it made of `words` zeros, whose
  // address is its one argument. All blocks, or those of a cluster, are at work at once, each on a
  // processor of its own with most of its shared memory. Throws std::runtime_error.
  virtual std::vector<uint32_t> RunSource(const SourceKernel& /*kernel*/, int64_t /*words*/,
                                          int /*device*/) const {
    throw std::runtime_error("this backend runs no kernels but its own");
  }
};

}  // namespace jp
