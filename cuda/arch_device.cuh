// SPDX-License-Identifier: Apache-2.0
// The kernels' intrinsics on a GPU. Each function is one instruction or one that the compiler
// knows.
#pragma once

#include "cuda/arch.h"

#define JP_DEVICE __device__ __forceinline__
#define JP_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
#define JP_CONSTANT __grid_constant__ const

namespace jp::cuda::arch {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kHasClusters = true;
#else
inline constexpr bool kHasClusters = false;
#endif

// ---- Where this thread is. Grids, clusters and blocks have one dimension.

JP_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
JP_DEVICE int BlockIndex() { return static_cast<int>(blockIdx.x); }
JP_DEVICE int Lane() { return static_cast<int>(threadIdx.x) % kLanes; }

// The same in all lanes, and the compiler knows it.
JP_DEVICE int Warp() { return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kLanes, 0); }

// The block's dynamic shared memory, aligned to 128 bytes.
JP_DEVICE unsigned char* SharedMemory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// ---- Barriers

JP_DEVICE void SyncBlock() { __syncthreads(); }
JP_DEVICE void SyncWarp() { __syncwarp(); }

// A barrier of `threads` threads of the block, whole warps; `id` is from 1 to 15.
JP_DEVICE void SyncNamed(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Between the lanes of a warp; all must take part

template <class T>  // of 4 bytes
JP_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(~0u, value, lane);
}
template <class T>
JP_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}

// sum += a b with a [16,K], b [K,8]: mma.sync m16n8k16, or m16n8k8 for tf32. PTX ISA, "Matrix
// Fragments for mma.m16n8k16": lane = 4 row + t holds a's rows `row` and `row` + 8 and b's column
// `row`; sum's [row, 2t], [row, 2t+1], [row+8, 2t], [row+8, 2t+1].
template <Precision kPrecision>
JP_DEVICE void Multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define JP_MMA(shape)                                                                             \
  asm volatile("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  static_assert(kPrecision != Precision::kFloat32, "the matrix unit has none");
  if constexpr (kPrecision == Precision::kBfloat16) {
    JP_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  } else if constexpr (kPrecision == Precision::kFloat16) {
    JP_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  } else {
    JP_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  }
#undef JP_MMA
}

// ---- Numbers as bits

JP_DEVICE uint32_t BitsOf(float value) { return __float_as_uint(value); }
JP_DEVICE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
JP_DEVICE uint16_t RoundToBfloat16(float value) {
  uint16_t rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
  return rounded;
}
JP_DEVICE uint16_t RoundToFloat16(float value) {
  uint16_t rounded;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
  return rounded;
}
JP_DEVICE float FromBfloat16(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
JP_DEVICE float FromFloat16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
JP_DEVICE uint32_t RoundToTf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// ---- Elementary functions: to a few units of float's last place, and the hardware's quick ones,
// to about 1e-6 of the largest value.

JP_DEVICE float Exp(float x) { return expf(x); }
JP_DEVICE float Tanh(float x) { return tanhf(x); }
JP_DEVICE float Log(float x) { return logf(x); }
JP_DEVICE float Log1p(float x) { return log1pf(x); }
JP_DEVICE float Exp2(float x) { return exp2f(x); }
JP_DEVICE float Expm1(float x) { return expm1f(x); }
JP_DEVICE float Erf(float x) { return erff(x); }
JP_DEVICE float Sin(float x) { return sinf(x); }
JP_DEVICE float Cos(float x) { return cosf(x); }
JP_DEVICE float Tan(float x) { return tanf(x); }
JP_DEVICE float Sqrt(float x) { return sqrtf(x); }
JP_DEVICE float Floor(float x) { return floorf(x); }
JP_DEVICE float Ceil(float x) { return ceilf(x); }
JP_DEVICE float RoundToEven(float x) { return rintf(x); }
JP_DEVICE float RoundAwayFromZero(float x) { return roundf(x); }
JP_DEVICE float Pow(float x, float y) { return powf(x, y); }
JP_DEVICE float QuickExp(float x) { return __expf(x); }
JP_DEVICE float QuickDivide(float a, float b) { return __fdividef(a, b); }

// ---- Memory that other blocks write meanwhile, of gpu scope. A Vec16B is four words in one
// access: each of them is whole, the four need not be of one time.

JP_DEVICE Vec16B LoadRelaxed(const void* from) {
  Vec16B q;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(q.word[0]), "=r"(q.word[1]), "=r"(q.word[2]), "=r"(q.word[3])
               : "l"(from)
               : "memory");
  return q;
}
JP_DEVICE void StoreRelaxed(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
JP_DEVICE uint32_t LoadAcquire(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}
// The add of a thread that a block's barrier has ordered behind the others' stores: releases those
// too.
JP_DEVICE void AddRelease(uint32_t* to, uint32_t amount) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(amount) : "memory");
}

// Brings the line of `address` into L2.
JP_DEVICE void Prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// ---- Clusters: other blocks' shared memory, and barriers that count the bytes that arrive there.
// (PTX ISA: mapa, st.async, mbarrier.) Only where kHasClusters.

using ClusterAddress = uint32_t;

// Where `local`, of this block's shared memory, is in the block of that rank.
JP_DEVICE ClusterAddress MapToRank(const void* local, int rank) {
  ClusterAddress there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(there)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(local))), "r"(rank));
  return there;
}
// Stores sixteen bytes and then counts them on that block's barrier.
JP_DEVICE void StoreAsync(ClusterAddress to, const Vec16B& q, ClusterAddress barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::
          "r"(to),
      "r"(q.word[0]), "r"(q.word[1]), "r"(q.word[2]), "r"(q.word[3]), "r"(barrier)
      : "memory");
}
// A barrier for one arrival a phase, with the bytes that it announces.
JP_DEVICE void InitByteBarrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
}
// Makes barriers just initialised known to the whole cluster, with a SyncCluster behind it.
JP_DEVICE void FenceByteBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
JP_DEVICE void ArriveExpectingBytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.relaxed.cluster.shared::cta.b64 _, [%0], %1;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
}
// Has the phase of this parity (the first is 0) completed? Acquires what it counted if so; waits
// a while, of the hardware's choice, before it says no. The fence, in place of an acquiring wait,
// is for shared memory alone: the other would empty the L1 cache every time.
JP_DEVICE bool TryWait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [%1], %2;\n\t"
      "fence.acquire.sync_restrict::shared::cluster.cluster;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(barrier))), "r"(parity)
      : "memory");
  return done != 0;
}
JP_DEVICE void SyncCluster() {
  SyncWarp();  // .aligned: the whole warp must come at once
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n\t"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// ---- Waiting, and giving up

// Between two looks at something that another block will change.
JP_DEVICE void Pause() {}

JP_DEVICE uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// What a Trap prints, its numbers to be filled in. In global memory, as printf would give every
// kernel a stack frame for its arguments.
static __device__ char trap_message[] =
    "another block's values came in time: expected 0x00000000, saw 0x00000000";

JP_DEVICE void WriteHex(char* end, uint32_t number) {
  for (int digit = 0; digit < 8; ++digit, number >>= 4) {
    *--end = static_cast<char>((number & 15) + ((number & 15) < 10 ? '0' : 'a' - 10));
  }
}

// Ends the launch with an error. The driver prints it as a failed assertion of function `kernel` in
// line `step`, with the block's index; once for the lanes of a warp that are here together.
JP_DEVICE void Trap(const char* kernel, int step, uint32_t expected, uint32_t seen) {
  if (Lane() != __ffs(static_cast<int>(__activemask())) - 1) return;
  char* end = trap_message + sizeof(trap_message) - 1;
  WriteHex(end, seen);
  WriteHex(end - sizeof(", saw 0x00000000") + 1, expected);
  __assertfail(trap_message, "jax_persistent, step", static_cast<unsigned>(step), kernel, 1);
}

}  // namespace jp::cuda::arch
