// SPDX-License-Identifier: Apache-2.0
// What a program holds: devices and plans, which do not change once they are made.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "native/backend.h"
#include "native/c/jax_persistent.h"
#include "native/c/thread_pool.h"
#include "native/problem/operands.h"

namespace jp::c {

// A backend, and where its calls run. Its plans share it.
struct Device {
  const Backend* backend;
  Resources resources;
  Facts facts;
  std::optional<ThreadPool> pool;
};

}  // namespace jp::c

struct jp_device {
  std::shared_ptr<const jp::c::Device> shared;
};

struct jp_plan {
  std::shared_ptr<const jp::c::Device> device;
  jp::Problem problem;
  std::unique_ptr<const jp::Plan> plan;
  std::string text;
  std::vector<jp::ArrayType> arrays;
  size_t operands;  // of the arrays, which are first
};

namespace jp::c {

// Both throw std::exception, of errors.h's kinds.
std::shared_ptr<const Device> MakeDevice(const jp_device_options& options);
std::unique_ptr<jp_plan> MakePlan(const std::shared_ptr<const Device>& device,
                                  const jp_problem& given, jp_pass pass);

}  // namespace jp::c
