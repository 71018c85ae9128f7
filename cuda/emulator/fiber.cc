// SPDX-License-Identifier: Apache-2.0
// Switching stacks, and telling the sanitizers of it.
#include "cuda/emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "cuda/emulator/sanitizer.h"

#if !defined(JP_EMULATOR_UCONTEXT)
// The registers that a call preserves, on the stack that is left, and off the one that is entered.
// A new stack starts in jp_enter_fiber, with its function in rbx and the argument in r12.
extern "C" void jp_switch_stacks(void** from, void** to);
extern "C" void jp_enter_fiber();
asm(R"(
  .pushsection .text
  .p2align 4
  .globl jp_switch_stacks
  .hidden jp_switch_stacks
  .type jp_switch_stacks, @function
jp_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size jp_switch_stacks, .-jp_switch_stacks

  .globl jp_enter_fiber
  .hidden jp_enter_fiber
  .type jp_enter_fiber, @function
jp_enter_fiber:
  movq %r12, %rdi
  call *%rbx
  ud2
  .size jp_enter_fiber, .-jp_enter_fiber
  .popsection
)");
#endif

namespace jp::cuda::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = size_t{256} << 10;  // the checks' frames are larger
#else
constexpr size_t kStackBytes = size_t{128} << 10;
#endif

size_t PageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Fiber>> fibers;
};

// Never destroyed: ThreadSanitizer's threads that the fibers are may not end before the process.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

Fiber::Fiber() {
  void* const memory = mmap(nullptr, PageBytes() + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  mprotect(memory_, PageBytes(), PROT_NONE);
  Prepare();
#if defined(__SANITIZE_THREAD__)
  thread_inside_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(thread_inside_);
#endif
  munmap(memory_, PageBytes() + kStackBytes);
}

std::unique_ptr<Fiber> Fiber::Take() {
  {
    std::lock_guard lock(pool().mutex);
    std::vector<std::unique_ptr<Fiber>>& fibers = pool().fibers;
    if (!fibers.empty()) {
      std::unique_ptr<Fiber> fiber = std::move(fibers.back());
      fibers.pop_back();
      return fiber;
    }
  }
  return std::make_unique<Fiber>();
}

void Fiber::Give(std::unique_ptr<Fiber> fiber) {
  std::lock_guard lock(pool().mutex);
  pool().fibers.push_back(std::move(fiber));
}

void Fiber::Start(std::function<void()> job) {
  job_ = std::move(job);
#if defined(__SANITIZE_THREAD__)
  thread_outside_ = __tsan_get_current_fiber();
#endif
  Enter(true);
}

void Fiber::Resume() { Enter(false); }
void Fiber::Suspend() { Leave(false); }

// A fiber never leaves this function: its stack and its sanitizers' state serve the next job.
void Fiber::Main(Fiber* self) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->outside_bottom_, &self->outside_bytes_);
#endif
  for (;;) {
    self->job_();
    self->Leave(true);
  }
}

void Fiber::Enter([[maybe_unused]] bool ordered) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&frames_outside_, memory_ + PageBytes(), kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(thread_inside_, ordered ? 0 : __tsan_switch_to_fiber_no_sync);
#endif
  Switch(&outside_, &inside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(frames_outside_, nullptr, nullptr);
#endif
}

void Fiber::Leave([[maybe_unused]] bool ordered) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&frames_inside_, outside_bottom_, outside_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(thread_outside_, ordered ? 0 : __tsan_switch_to_fiber_no_sync);
#endif
  Switch(&inside_, &outside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(frames_inside_, &outside_bottom_, &outside_bytes_);
#endif
}

#if defined(JP_EMULATOR_UCONTEXT)
void Fiber::Switch(Context* from, Context* to) { swapcontext(from, to); }

void Fiber::Prepare() {
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = memory_ + PageBytes();
  inside_.uc_stack.ss_size = kStackBytes;
  inside_.uc_link = nullptr;
  // Arguments are ints: the pointer comes in halves.
  void (*const start)(unsigned, unsigned) = [](unsigned high, unsigned low) {
    Main(reinterpret_cast<Fiber*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low)));
  };
  const auto self = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(this));
  makecontext(&inside_, reinterpret_cast<void (*)()>(start), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self));
}
#else
void Fiber::Switch(Context* from, Context* to) { jp_switch_stacks(from, to); }

void Fiber::Prepare() {
  // r15, r14, r13, r12, rbx, rbp, where to return to; then the stack's end, a multiple of 16.
  auto* frame = reinterpret_cast<void**>(memory_ + PageBytes() + kStackBytes - 16) - 7;
  frame[3] = this;
  frame[4] = reinterpret_cast<void*>(&Fiber::Main);
  frame[6] = reinterpret_cast<void*>(&jp_enter_fiber);
  inside_ = frame;
}
#endif

}  // namespace jp::cuda::emulator
