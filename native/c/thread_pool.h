// SPDX-License-Identifier: Apache-2.0
// Threads that run tasks for the CPU's workers, and sleep while there are none.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace jp::c {

class ThreadPool {
 public:
  // Throws std::system_error where the system has no more threads.
  explicit ThreadPool(int threads);
  // Waits for the tasks that were scheduled.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  void Schedule(std::function<void()> task);

 private:
  void Work();
  void Stop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stops_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace jp::c
