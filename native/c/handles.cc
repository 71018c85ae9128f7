// SPDX-License-Identifier: Apache-2.0
// Makes devices of the list of backends, and plans on them.
#include "native/c/handles.h"

#include <functional>
#include <stdexcept>
#include <utility>

#include "native/backends.h"
#include "native/c/errors.h"
#include "native/c/structs.h"

namespace jp::c {
namespace {

constexpr int kMostThreads = 1 << 10;

const Backend& BackendOf(const char* platform) {
  const Backend* backend = FindBackend(platform);
  if (backend != nullptr) return *backend;
  std::string known;
  for (const Backend* one : Backends()) {
    known.append(known.empty() ? "'" : " or '").append(one->Platform()).append("'");
  }
  throw std::invalid_argument("platform: expected " + known + "; got '" + platform + "'");
}

using Task = std::function<void()>;

extern "C" void RunTask(void* task) { (*std::unique_ptr<Task>(static_cast<Task*>(task)))(); }

// A schedule of the program's own threads.
std::function<void(Task)> LentBy(const jp_thread_pool* given) {
  const auto pool = Versioned(given, "jp_thread_pool");
  if (pool.schedule == nullptr) {
    throw std::invalid_argument("schedule: expected a function of the jp_thread_pool; got NULL");
  }
  return [pool](Task task) {
    pool.schedule(pool.user_data, RunTask, std::make_unique<Task>(std::move(task)).release());
  };
}

}  // namespace

std::shared_ptr<const Device> MakeDevice(const jp_device_options& options) {
  const Backend& backend = BackendOf(options.platform == nullptr ? "cpu" : options.platform);
  if (options.threads < 0 || options.threads > kMostThreads) {
    throw std::invalid_argument("threads: expected 0 to " + std::to_string(kMostThreads) +
                                "; got " + std::to_string(options.threads));
  }
  if (options.ordinal < 0) {
    throw std::invalid_argument("ordinal: expected at least 0; got " +
                                std::to_string(options.ordinal));
  }
  const std::string platform(backend.Platform());
  const std::string missing = backend.Missing();
  if (!missing.empty()) throw Failure(JP_UNAVAILABLE, platform + ": " + missing);
  auto device = std::make_shared<Device>();
  device->backend = &backend;
  Resources& where = device->resources;
  where.device = options.ordinal;
  try {
    if (backend.KindOfExecutor() == Executor::kThreadPool) {
      where.threads = options.threads > 0 ? options.threads : backend.Places().front().threads;
      device->facts = backend.FactsOf(where);
      where.threads = static_cast<int>(device->facts.at("threads"));  // what the machine allows
      where.schedule = options.pool != nullptr
                           ? LentBy(options.pool)
                           : [pool = &device->pool.emplace(where.threads - 1)](Task task) {
                               pool->Schedule(std::move(task));
                             };
    } else {
      device->facts = backend.FactsOf(where);
    }
  } catch (const std::runtime_error& error) {
    throw Failure(JP_UNAVAILABLE, platform + ": " + error.what());
  }
  return device;
}

namespace {

// Units in a vector of packed kernels; 0 where a device reads none.
int64_t PackedLanes(const Device& device) {
  const auto lanes = device.facts.find("lanes");
  return lanes == device.facts.end() ? 0 : lanes->second;
}

}  // namespace

std::unique_ptr<jp_plan> MakePlan(const std::shared_ptr<const Device>& device,
                                  const jp_problem& given, jp_pass pass) {
  auto made = std::make_unique<jp_plan>();
  made->device = device;
  made->problem = ProblemOf(given, pass, PackedLanes(*device));
  const Backend& backend = *device->backend;
  if (given.packed != 0 && PackedLanes(*device) == 0) {
    throw Failure(JP_UNSUPPORTED, "packed: only a CPU's kernels read packed kernels");
  }
  made->plan = backend.MakePlan(made->problem, device->facts, {});
  const std::string refusal = made->plan->Refusal();
  if (!refusal.empty()) throw Failure(JP_UNSUPPORTED, refusal);
  backend.Compile(*made->plan);
  backend.Load(*made->plan, device->resources);
  const Description description = made->plan->Describe();
  made->text = description.residency + ": " + description.explanation;
  ArrayTypes types = ArrayTypesOf(made->problem);
  made->operands = types.operands.size();
  made->arrays = std::move(types.operands);
  for (ArrayType& result : types.results) made->arrays.push_back(std::move(result));
  return made;
}

}  // namespace jp::c
