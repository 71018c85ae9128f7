// SPDX-License-Identifier: Apache-2.0
// Looks plans up without a lock, and makes those that are missing under one.
#include "native/xla/planned_calls.h"

#include <optional>
#include <stdexcept>
#include <utility>

namespace jp::ffi {
namespace {

bool SameSizes(const Problem& a, const Problem& b) {
  return a.groups == b.groups && a.batch == b.batch && a.steps == b.steps && a.inputs == b.inputs &&
         a.hidden == b.hidden;
}

}  // namespace

PlannedCalls::PlannedCalls(const Backend& backend, ParsedProblem parsed)
    : backend_(backend),
      problem_(parsed.problem),
      options_(std::move(parsed.options)),
      has_all_sizes_(HasAllSizes(parsed.problem)) {
  if (!has_all_sizes_) return;
  std::string refusal;
  bool runs = false;
  for (const Resources& place : backend_.Places()) {
    const PlannedCall& call = Make(problem_, place);
    refusal = call.refusal;
    runs = runs || refusal.empty();
  }
  if (!runs && !refusal.empty()) throw std::invalid_argument(refusal);
}

const PlannedCall& PlannedCalls::Find(const xffi::RemainingArgs& operands,
                                      const xffi::RemainingRets& results,
                                      const Resources& resources) {
  Problem problem = problem_;
  if (!has_all_sizes_) {
    problem = WithSizesOf(problem, operands, results);
    const std::string invalid = Invalid(problem);
    if (!invalid.empty()) throw std::invalid_argument(invalid);
    if (!HasAllSizes(problem)) {
      throw std::invalid_argument(BufferTypes(problem).Mismatch(operands, results));
    }
  }
  const PlannedCall* call = Lookup(problem, resources);
  if (call != nullptr) return *call;
  const std::lock_guard lock(mutex_);
  call = Lookup(problem, resources);
  return call != nullptr ? *call : Make(problem, resources);
}

const PlannedCall* PlannedCalls::Lookup(const Problem& problem, const Resources& resources) const {
  const PlannedCall* call = newest_.load(std::memory_order_acquire);
  while (call != nullptr &&
         !(call->threads == resources.threads && call->device == resources.device &&
           SameSizes(call->problem, problem))) {
    call = call->next;
  }
  return call;
}

// Machines of the same facts share a plan.
const PlannedCall& PlannedCalls::Make(const Problem& problem, const Resources& resources) {
  Facts facts = backend_.FactsOf(resources);
  std::shared_ptr<const Plan> plan;
  const PlannedCall* const newest = newest_.load(std::memory_order_relaxed);
  for (const PlannedCall* call = newest; call != nullptr && plan == nullptr; call = call->next) {
    if (SameSizes(call->problem, problem) && call->facts == facts) plan = call->plan;
  }
  if (plan == nullptr) plan = backend_.MakePlan(problem, facts, options_);
  std::string refusal = plan->Refusal();
  if (refusal.empty()) backend_.Compile(*plan);
  const bool has_workspace = backend_.KindOfExecutor() == Executor::kStream;
  BufferTypes buffers(problem,
                      has_workspace ? std::optional(plan->WorkspaceBytes()) : std::nullopt);
  made_.push_back(std::make_unique<const PlannedCall>(
      problem, resources.threads, resources.device, std::move(plan), std::move(refusal),
      std::move(buffers), std::move(facts), newest));
  newest_.store(made_.back().get(), std::memory_order_release);
  return *made_.back();
}

}  // namespace jp::ffi
