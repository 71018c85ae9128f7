// SPDX-License-Identifier: Apache-2.0
// A function that can be left in the middle and entered again: one lane of a warp.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#if !(defined(__x86_64__) && defined(__linux__))
#include <ucontext.h>
#define JP_EMULATOR_UCONTEXT 1
#endif

namespace jp::cuda::emulator {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Runs a job, which may not throw, until it suspends or ends. The job sees all that the caller
  // has done, and the caller all that the job did once it has ended; between the two, switching
  // orders no memory in ThreadSanitizer's eyes. A job stays on the thread that started it.
  void Start(std::function<void()> job);
  void Resume();
  void Suspend();  // the job's own call

  // Fibers are kept for later launches. The pool is safe to use from any thread.
  static std::unique_ptr<Fiber> Take();
  static void Give(std::unique_ptr<Fiber> fiber);

 private:
#if defined(JP_EMULATOR_UCONTEXT)
  using Context = ucontext_t;
#else
  using Context = void*;  // a stack pointer, with the registers saved above it
#endif

  static void Main(Fiber* self);
  static void Switch(Context* from, Context* to);
  void Enter(bool ordered);
  void Leave(bool ordered);
  void Prepare();

  unsigned char* memory_;  // a guard page, then the stack
  Context inside_{}, outside_{};
  std::function<void()> job_;

  void* thread_inside_ = nullptr;  // ThreadSanitizer's
  void* thread_outside_ = nullptr;
  void* frames_inside_ = nullptr;  // AddressSanitizer's
  void* frames_outside_ = nullptr;
  const void* outside_bottom_ = nullptr;
  size_t outside_bytes_ = 0;
};

}  // namespace jp::cuda::emulator
