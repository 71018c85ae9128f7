// SPDX-License-Identifier: Apache-2.0
// A weight of a problem as an array of each direction, or of each direction and gate.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "native/problem/arrays.h"
#include "tests/native/buffers.h"

namespace jp::test {

class WeightParts {
 public:
  // `joined` is [N,D,rows,G*H], or empty where the problem has no such weight.
  WeightParts(const Problem& problem, const std::vector<double>& joined)
      : problem_(problem), size_(joined.size()) {
    std::vector<std::vector<double>> parts(problem.weight_arrays());
    ForEach([&](int part, size_t at) { parts[part].push_back(joined[at]); });
    for (const auto& part : parts) {
      parts_.push_back(std::make_unique<Buffer>(problem.dtype, part));
    }
  }

  template <class Pointer>
  void Set(Pointer (&pointers)[kMostWeightArrays]) {
    pointers[0] = nullptr;
    for (size_t i = 0; size_ > 0 && i < parts_.size(); ++i) pointers[i] = parts_[i]->data();
  }

  std::vector<double> Joined() const {
    std::vector<std::vector<double>> parts;
    for (const auto& part : parts_) parts.push_back(part->values());
    std::vector<size_t> next(parts.size(), 0);
    std::vector<double> joined(size_);
    ForEach([&](int part, size_t at) { joined[at] = parts[part][next[part]++]; });
    return joined;
  }

  bool Intact() {
    bool intact = true;
    for (const auto& part : parts_) intact &= part->Intact();
    return intact;
  }

 private:
  // Calls f(part, index) for all values, in the order in which those of each part lie.
  template <class F>
  void ForEach(const F& f) const {
    const int64_t ways = problem_.ways(), width = problem_.gates_of_an_array() * problem_.hidden;
    const auto parts_of_a_way = static_cast<int64_t>(problem_.weight_arrays() / ways);
    for (size_t at = 0; at < size_; ++at) {
      const auto value = static_cast<int64_t>(at), column = value % problem_.columns();
      const int64_t group = value / (static_cast<int64_t>(size_) / problem_.groups);
      f(static_cast<int>(group % ways * parts_of_a_way + column / width), at);
    }
  }

  Problem problem_;
  size_t size_;
  std::vector<std::unique_ptr<Buffer>> parts_;
};

}  // namespace jp::test
