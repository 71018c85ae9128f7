// SPDX-License-Identifier: Apache-2.0
// Measures what this machine's cores can do: bytes read a second from each level of memory,
// multiply-adds a second, what else vectors take, and how long cores take to hear of each other.
// Compiled for the machine it runs on (-march=native).
//
//   limits THREADS SECONDS {NAME BYTES_PER_THREAD}...   prints JSON
//
// Memory is read to and fro: of more than a cache holds, it still has what was read last.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 24;  // of 32 registers
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;  // of 16 registers
#elif defined(__aarch64__)
constexpr int kBytes = 16, kChains = 24;
#else
constexpr int kBytes = 16, kChains = 12;
#endif
constexpr int kLanes = kBytes / 4;
constexpr int kReadChains = 8;
constexpr int kRepeats = 15;  // the best counts: others may use the machine
using Vector = float __attribute__((vector_size(kBytes)));

volatile float sink;
volatile float factor = 0.999f, addend = 0.001f;

// The most units of work a second that `threads` threads get done side by side. `work` returns how
// many units one call of it did.
double Rate(int threads, double seconds, const std::function<double(int)>& work) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::atomic<int> waiting{threads};
    std::vector<double> rates(threads);
    auto run = [&](int thread) {
      work(thread);  // the first touch of its data, and the clock's ramp
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      const auto began = Clock::now();
      double done = 0, elapsed = 0;
      while (elapsed < seconds) {
        done += work(thread);
        elapsed = std::chrono::duration<double>(Clock::now() - began).count();
      }
      rates[thread] = done / elapsed;
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
    run(0);
    for (std::thread& other : others) other.join();
    double sum = 0;
    for (double rate : rates) sum += rate;
    best = sum > best ? sum : best;
  }
  return best;
}

double Bandwidth(int threads, double seconds, int64_t bytes_per_thread) {
  constexpr int64_t block = kReadChains * kBytes;
  const int64_t blocks = bytes_per_thread < block ? 1 : bytes_per_thread / block;
  std::vector<float*> buffers(threads);
  for (float*& buffer : buffers) {
    constexpr int64_t page = int64_t{2} << 20;
    const int64_t bytes = (blocks * block + page - 1) / page * page;
    buffer = static_cast<float*>(std::aligned_alloc(page, bytes));
#if defined(__linux__)
    madvise(buffer, bytes, MADV_HUGEPAGE);
#endif
    for (int64_t i = 0; i < blocks * block / 4; ++i) buffer[i] = 1.0f;
  }
  const int64_t passes = 2 + (int64_t{1} << 20) / (blocks * block);
  const double rate = Rate(threads, seconds, [&](int thread) {
    const Vector* data = reinterpret_cast<const Vector*>(buffers[thread]);
    Vector sums[kReadChains] = {};
    const auto read = [&](int64_t i) {
#pragma GCC unroll 8
      for (int chain = 0; chain < kReadChains; ++chain) {
        sums[chain] += data[i * kReadChains + chain];
      }
    };
    for (int64_t pass = 0; pass < passes; ++pass) {
      if (pass % 2 == 0) {
        for (int64_t i = 0; i < blocks; ++i) read(i);
      } else {
        for (int64_t i = blocks - 1; i >= 0; --i) read(i);
      }
    }
    for (const Vector& sum : sums) sink = sum[0];
    return static_cast<double>(passes * blocks * block);
  });
  for (float* buffer : buffers) std::free(buffer);
  return rate;
}

double MultiplyAdds(int threads, double seconds) {
  return Rate(threads, seconds, [](int) {
    constexpr int kSteps = 20000;
    const Vector a = Vector{} + factor, b = Vector{} + addend;
    Vector chains[kChains];
    for (Vector& chain : chains) chain = b;
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 32  // so that the sums stay in registers
      for (Vector& chain : chains) chain = chain * a + b;
    }
    for (const Vector& chain : chains) sink = chain[0];
    return 2.0 * kSteps * kChains * kLanes;
  });
}

// By the dot product instruction; 0 where there is none.
double BfloatMultiplyAdds([[maybe_unused]] int threads, [[maybe_unused]] double seconds) {
#if defined(__AVX512BF16__)
  return Rate(threads, seconds, [](int) {
    constexpr int kSteps = 20000;
    const __m512 wide = _mm512_set1_ps(factor);
    const __m512bh a = _mm512_cvtne2ps_pbh(wide, wide);
    __m512 chains[kChains];
    for (__m512& chain : chains) chain = _mm512_set1_ps(addend);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 32  // so that the sums stay in registers
      for (__m512& chain : chains) chain = _mm512_dpbf16_ps(chain, a, a);
    }
    for (const __m512& chain : chains) sink = _mm512_cvtss_f32(chain);
    return 4.0 * kSteps * kChains * kLanes;
  });
#else
  return 0.0;
#endif
}

// Seconds of one core for a vector of: stores, divisions, and multiply-adds of which each waits for
// the one before it.
double SecondsOf(int threads, double seconds, const std::function<double(int)>& work) {
  return threads / Rate(threads, seconds, work);
}

double StoreSeconds(int threads, double seconds) {
  constexpr int kSteps = 2000, kRoom = 128;  // vectors, that L1 has
  std::vector<std::vector<float>> rooms(threads, std::vector<float>((kRoom + 1) * kLanes));
  return SecondsOf(threads, seconds, [&](int thread) {
    const auto at = reinterpret_cast<uintptr_t>(rooms[thread].data() + kLanes) / kBytes * kBytes;
    auto* const to = reinterpret_cast<Vector*>(at);
    const Vector value = Vector{} + factor;
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 8
      for (int i = 0; i < kRoom; ++i) to[i] = value;
      asm volatile("" : : "r"(to) : "memory");  // or only the last pass would store
    }
    return 1.0 * kSteps * kRoom;
  });
}

double DivideSeconds(int threads, double seconds) {
  return SecondsOf(threads, seconds, [](int) {
    constexpr int kSteps = 10000, kApart = 8;
    const Vector by = Vector{} + factor;
    Vector values[kApart];
    for (Vector& value : values) value = Vector{} + addend;
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 8
      for (Vector& value : values) value = by / value;
    }
    for (const Vector& value : values) sink = value[0];
    return 1.0 * kSteps * kApart;
  });
}

double DependentSeconds(int threads, double seconds) {
  return SecondsOf(threads, seconds, [](int) {
    constexpr int kSteps = 50000;
    const Vector a = Vector{} + factor, b = Vector{} + addend;
    Vector value = b;
    for (int step = 0; step < kSteps; ++step) value = value * a + b;
    sink = value[0];
    return 1.0 * kSteps;
  });
}

// Seconds from when all threads say that they are there to when each knows it of all others.
double MeetingSeconds(int threads) {
  using Clock = std::chrono::steady_clock;
  constexpr int kMeetings = 2000;
  struct alignas(128) Line {  // a neighbour's prefetched one, too
    std::atomic<int> meetings{0};
  };
  double best = threads > 1 ? 1.0 : 0.0;
  for (int repeat = 0; threads > 1 && repeat < kRepeats; ++repeat) {
    std::vector<Line> lines(threads);
    double elapsed = 0;
    const auto run = [&](int thread) {
      auto began = Clock::now();
      for (int i = 1; i <= 2 * kMeetings; ++i) {
        lines[thread].meetings.store(i, std::memory_order_release);
        for (const Line& line : lines) {
          while (line.meetings.load(std::memory_order_acquire) < i) {
          }
        }
        if (i == kMeetings) began = Clock::now();  // all have started
      }
      if (thread == 0) elapsed = std::chrono::duration<double>(Clock::now() - began).count();
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
    run(0);
    for (std::thread& other : others) other.join();
    best = std::min(best, elapsed / kMeetings);
  }
  return best;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count % 2 == 0) {
    std::fprintf(stderr, "usage: limits THREADS SECONDS {LEVEL BYTES_PER_THREAD}...\n");
    return 2;
  }
  const int threads = std::atoi(arguments[1]);
  const double seconds = std::atof(arguments[2]);
  const double wide = MultiplyAdds(threads, seconds);  // bfloat16 can be widened to float32, too
  const double dot = BfloatMultiplyAdds(threads, seconds);
  std::printf("{\"flops\": {\"float32\": %.4g, \"bfloat16\": %.4g, ", wide, std::max(wide, dot));
  std::printf("\"bfloat16_dot\": %.4g}, \"vector\": {\"lanes\": %d, ", dot, kLanes);
  std::printf("\"store\": %.4g, ", StoreSeconds(threads, seconds));
  std::printf("\"divide\": %.4g, ", DivideSeconds(threads, seconds));
  std::printf("\"dependent\": %.4g}, ", DependentSeconds(threads, seconds));
  std::printf("\"meeting\": %.4g, \"bandwidth\": {", MeetingSeconds(threads));
  for (int i = 3; i < count; i += 2) {
    const double rate = Bandwidth(threads, seconds, std::atoll(arguments[i + 1]));
    std::printf("%s\"%s\": %.4g", i > 3 ? ", " : "", arguments[i], rate);
  }
  std::printf("}}\n");
  return 0;
}
