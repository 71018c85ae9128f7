// SPDX-License-Identifier: Apache-2.0
// The software GPU itself, on PTX written by hand: what instructions give, what is refused, and
// what the stand-in for a driver refuses.
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/driver_api.h"
#include "tests/cuda/software_gpu/machine.h"
#include "tests/cuda/software_gpu/numbers.h"
#include "tests/cuda/software_gpu/software_gpu.h"
#include "tests/native/check.h"

namespace jp::cuda {  // of the library, as dlsym would find them
extern "C" {
CUresult cuInit(unsigned);
CUresult cuDevicePrimaryCtxRetain(CUcontext*, CUdevice);
CUresult cuCtxPushCurrent_v2(CUcontext);
CUresult cuCtxPopCurrent_v2(CUcontext*);
CUresult cuModuleLoadData(CUmodule*, const void*);
CUresult cuModuleGetFunction(CUfunction*, CUmodule, const char*);
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int);
CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction, void**, void**);
CUresult cuMemsetD8Async(CUdeviceptr, unsigned char, size_t, CUstream);
CUresult cuMemAlloc_v2(CUdeviceptr*, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemcpyDtoH_v2(void*, CUdeviceptr, size_t);
CUresult cuStreamCreate(CUstream*, unsigned);
CUresult cuStreamDestroy_v2(CUstream);
CUresult cuStreamSynchronize(CUstream);
}
}  // namespace jp::cuda

namespace {

using namespace jp::software_gpu;
using jp::test::Finish;

// A kernel that is given the address of an array of words.
std::string Program(const std::string& body, const std::string& target = "sm_90a") {
  return ".version 8.6\n.target " + target +
         "\n.address_size 64\n.extern .shared .align 128 .b8 memory[];\n.visible .entry kernel(\n"
         "\t.param .align 8 .b8 kernel_param_0[8]\n)\n.maxntid 256, 1, 1\n{\n"
         "\t.reg .pred %p<8>;\n\t.reg .b16 %rs<8>;\n\t.reg .b32 %r<24>;\n\t.reg .f32 %f<12>;\n"
         "\t.reg .b64 %rd<12>;\n\tld.param.u64 %rd1, [kernel_param_0];\n\tmov.u32 %r1, %tid.x;\n"
         "\tmul.wide.u32 %rd2, %r1, 4;\n\tadd.s64 %rd3, %rd1, %rd2;\n" +
         body + "\n\tret;\n}\n";
}

RunResult Run(const std::string& body, std::vector<uint32_t>& words,
              GridShape shape = {1, 32, 1, 256}, uint64_t seed = 1) {
  const Module module = ParsePtx(Program(body));
  const void* address = words.data();
  RunOptions options;
  options.seed = seed;
  options.memory = {{reinterpret_cast<uint64_t>(words.data()), words.size() * 4}};
  return RunGrid(module, module.kernels.at("kernel"), &address, shape, options);
}

std::string Refused(const std::string& text) {
  try {
    ParsePtx(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

uint32_t BitsOf(float value) { return ToBits(value); }

// body makes %r4 of %r2 and %r3, two words a lane; each pair is tried in a lane of its own.
void CheckWords(const std::string& body,
                const std::function<uint32_t(uint32_t, uint32_t)>& expected) {
  const uint32_t values[] = {0,          1,          2,          3,          31,         32,
                             33,         0x7fffffff, 0x80000000, 0xffffffff, 0x12345678, 0xdeadbeef,
                             0x3f800000, 0xbf800000, 0x7f800000, 0x00000001};
  std::vector<std::pair<uint32_t, uint32_t>> pairs;
  for (const uint32_t a : values) {
    for (const uint32_t b : values) pairs.emplace_back(a, b);
  }
  std::vector<uint32_t> words(3 * 256);
  for (size_t i = 0; i < 256; ++i) {
    words[i] = pairs[i].first;
    words[256 + i] = pairs[i].second;
  }
  const RunResult result = Run("\tld.global.u32 %r2, [%rd3];\n\tld.global.u32 %r3, [%rd3+1024];\n" +
                                   body + "\n\tst.global.u32 [%rd3+2048], %r4;",
                               words, {1, 256, 1, 0});
  CHECK(result.error.empty(), body, result.error);
  for (size_t i = 0; i < 256; ++i) {
    const auto [a, b] = pairs[i];
    CHECK(words[512 + i] == expected(a, b), body, a, b, words[512 + i], expected(a, b));
  }
}

int32_t Signed(uint32_t word) { return static_cast<int32_t>(word); }

void CheckArithmetic() {
  CheckWords("add.s32 %r4, %r2, %r3;", [](auto a, auto b) { return a + b; });
  CheckWords("sub.s32 %r4, %r2, %r3;", [](auto a, auto b) { return a - b; });
  CheckWords("mul.lo.s32 %r4, %r2, %r3;", [](auto a, auto b) { return a * b; });
  CheckWords("mad.lo.s32 %r4, %r2, %r3, 7;", [](auto a, auto b) { return a * b + 7; });
  CheckWords("shl.b32 %r4, %r2, %r3;", [](auto a, auto b) { return b > 31 ? 0 : a << b; });
  CheckWords("shr.u32 %r4, %r2, %r3;", [](auto a, auto b) { return b > 31 ? 0 : a >> b; });
  CheckWords("shr.s32 %r4, %r2, %r3;", [](auto a, auto b) {
    return static_cast<uint32_t>(Signed(a) >> (b > 31 ? 31 : Signed(b)));
  });
  CheckWords("min.s32 %r4, %r2, %r3;",
             [](auto a, auto b) { return Signed(a) < Signed(b) ? a : b; });
  CheckWords("max.s32 %r4, %r2, %r3;",
             [](auto a, auto b) { return Signed(a) > Signed(b) ? a : b; });
  CheckWords("xor.b32 %r4, %r2, %r3;", [](auto a, auto b) { return a ^ b; });
  CheckWords("not.b32 %r4, %r2;", [](auto a, auto) { return ~a; });
  CheckWords("brev.b32 %r5, %r2; bfind.shiftamt.u32 %r4, %r5;",
             [](auto a, auto) { return a == 0 ? ~0u : static_cast<uint32_t>(__builtin_ctz(a)); });
  CheckWords("prmt.b32 %r4, %r2, %r3, 0x7610;",
             [](auto a, auto b) { return (a & 0xff) | (a & 0xff00) | (b >> 16 << 16); });
  CheckWords("bfi.b32 %r4, %r2, %r3, 8, 12;",
             [](auto a, auto b) { return (b & ~0xfff00u) | (a & 0xfff) << 8; });
  CheckWords("setp.lt.s32 %p1, %r2, %r3; selp.b32 %r4, 5, 6, %p1;",
             [](auto a, auto b) { return Signed(a) < Signed(b) ? 5u : 6u; });
  CheckWords(
      "setp.gt.u32 %p1, %r2, %r3; @%p1 bra $L1; mov.u32 %r4, 1; bra.uni $L2;\n$L1:\n"
      "mov.u32 %r4, 2;\n$L2:\n",
      [](auto a, auto b) { return a > b ? 2u : 1u; });
  CheckWords(
      "mov.b32 %f1, %r2; mov.b32 %f2, %r3; fma.rn.f32 %f3, %f1, %f2, %f1; mov.b32 %r4, %f3;"
      "setp.neu.f32 %p1, %f3, %f3; selp.b32 %r4, 1, %r4, %p1;",
      [](auto a, auto b) {
        const float sum = std::fma(FromBits(a), FromBits(b), FromBits(a));
        return std::isnan(sum) ? 1u : BitsOf(sum);
      });
  CheckWords(
      "mov.b32 %f1, %r2; mov.b32 %f2, %r3; setp.geu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;",
      [](auto a, auto b) { return uint32_t{!(FromBits(a) < FromBits(b))}; });
  for (const char* clock : {"%clock64", "%globaltimer"}) {  // neither ever goes back
    CheckWords(std::string("mov.u64 %rd4, ") + clock + "; mov.u64 %rd5, " + clock +
                   "; setp.ge.u64 %p1, %rd5, %rd4; selp.b32 %r4, 1, 0, %p1;",
               [](auto, auto) { return 1u; });
  }
  CheckWords("mov.b32 %f1, %r2; mov.b32 %f2, %r3; copysign.f32 %f3, %f1, %f2; mov.b32 %r4, %f3;",
             [](auto a, auto b) { return (b & 0x7fffffff) | (a & 0x80000000); });
}

void CheckNumbers() {
  for (uint32_t half = 0; half < 65536; ++half) {  // each half comes back
    const auto bits = static_cast<uint16_t>(half);
    const float value = FromFloat16(bits);
    if (!std::isnan(value)) CHECK(ToFloat16(value) == bits, half);
    const float wide = FromBits(half << 16);
    if (!std::isnan(wide)) CHECK(ToBfloat16(wide) == bits, half);
  }
  CHECK(ToFloat16(1.0f + 0x1p-11f) == 0x3c00 && ToFloat16(1.0f + 0x3p-11f) == 0x3c02);  // ties
  CHECK(ToFloat16(65519.996f) == 0x7bff && ToFloat16(65520.0f) == 0x7c00);
  CHECK(ToFloat16(0x1p-25f) == 0 && ToFloat16(0x1.8p-25f) == 1 && ToFloat16(-0x1p-24f) == 0x8001);
  CHECK(ToBfloat16(1.0f + 0x1p-8f) == 0x3f80 && ToBfloat16(1.0f + 0x3p-8f) == 0x3f82);
  CHECK(ToTf32(BitsOf(1.0f + 0x1p-11f)) == BitsOf(1.0f + 0x1p-10f));  // ties away from zero
  CHECK(ToTf32(BitsOf(1.0f + 0x1.fp-12f)) == BitsOf(1.0f) && ToTf32(0x7f800000) == 0x7f800000);
}

// A matrix product of small whole numbers, whose sums are exact: fragments as the PTX ISA has them.
void CheckMma() {
  std::vector<uint32_t> words(32 * 16);
  float a[16][16], b[16][8];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) a[i][k] = static_cast<float>((3 * i + 5 * k) % 7 - 3);
    for (int n = 0; n < 8; ++n) b[i][n] = static_cast<float>((2 * i + 3 * n) % 5 - 2);
  }
  const auto two = [](float low, float high) {
    return uint32_t{ToBfloat16(low)} | uint32_t{ToBfloat16(high)} << 16;
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, k = lane % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      const int row = group + r % 2 * 8, first = k + r / 2 * 8;
      words[r * 32 + lane] = two(a[row][first], a[row][first + 1]);
      if (r < 2) words[(4 + r) * 32 + lane] = two(b[k + r * 8][group], b[k + r * 8 + 1][group]);
    }
  }
  std::string body;
  for (int i = 0; i < 6; ++i) {
    body +=
        "ld.global.u32 %r" + std::to_string(4 + i) + ", [%rd3+" + std::to_string(128 * i) + "];\n";
  }
  body +=
      "mov.f32 %f1, 0f3F800000;\nmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%f2,%f3,%f4,%f5}, {%r4,%r5,%r6,%r7}, {%r8,%r9}, {%f1,%f1,%f1,%f1};\n";
  for (int i = 0; i < 4; ++i) {
    body += "st.global.f32 [%rd3+" + std::to_string(128 * (8 + i)) + "], %f" +
            std::to_string(2 + i) + ";\n";
  }
  const RunResult result = Run(body, words);
  CHECK(result.error.empty(), result.error);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = 1;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      CHECK(FromBits(words[(8 + i) * 32 + lane]) == sum, lane, i, sum);
    }
  }
}

// What a body ends with: an error that has these words.
void CheckEnds(const std::string& body, const std::string& words,
               GridShape shape = {1, 64, 1, 256}) {
  std::vector<uint32_t> memory(256);
  std::string errors;
  for (uint64_t seed = 1; seed < 40; ++seed) errors += Run(body, memory, shape, seed).error + "\n";
  CHECK(errors.find(words) != std::string::npos, body, words, errors.substr(0, 300));
}

void CheckErrors() {
  CheckEnds("ld.global.u32 %r2, [%rd3+4096];", "an access astray");
  CheckEnds("ld.global.v2.u32 {%r2, %r3}, [%rd3+4];", "not aligned");
  CheckEnds("mov.u64 %rd4, 0; ld.global.u32 %r2, [%rd4];", "null pointer");
  CheckEnds("mov.u32 %r2, 253; ld.shared.u32 %r3, [%r2+3];", "past the end of shared memory");
  CheckEnds("setp.eq.s32 %p1, %r1, 3; @%p1 bra $L1; bar.warp.sync -1;\n$L1:\n", "collective");
  CheckEnds("setp.eq.s32 %p1, %r1, 3; @%p1 bra $L1; bar.sync 0;\n$L1:\nret;",
            "after some lanes have ended");
  CheckEnds("setp.lt.u32 %p1, %r1, 32; @%p1 bra $L1; bar.sync 1, 64;\n$L1:\n",
            "wait for each other");
  CheckEnds(
      "mov.u32 %r2, 8; mbarrier.arrive.expect_tx.relaxed.cluster.shared::cta.b64 _, [%r2], %r1;",
      "no mbarrier");
  CheckEnds("trap;", "trap");
  const std::string late =
      "setp.ne.s32 %p1, %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, %ctaid.x; xor.b32 %r3, %r3, 1;\n"
      "@%p1 bra $L1; mbarrier.init.shared::cta.b64 [%r2], 1;\n$L1:\nbar.warp.sync -1;\n"
      "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n"
      "mapa.shared::cluster.u32 %r4, %r2, %r3; @%p1 bra $L2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r4+16], {%r1,%r1,%r1,%r1}, "
      "[%r4];\n$L2:\n";
  CheckEnds(late, "st.async to a block that has ended", {2, 32, 2, 256});
}

void CheckUnknown() {
  CHECK(Refused(Program("popc.b32 %r2, %r1;")).find("popc.b32") != std::string::npos);
  CHECK(Refused(Program("popc.b32 %r2, %r1;")).find("line 1") != std::string::npos);
  CHECK(Refused(Program("bra $L9;")).find("$L9") != std::string::npos);
  CHECK(Refused(Program("bar.warp.sync 15;")).find("mask") != std::string::npos);
  CHECK(Refused(Program("mov.u32 %r2, %nothing;")).find("%nothing") != std::string::npos);
  CHECK(!Refused("nothing").empty());
}

// A store is seen by other blocks late, and all of them once it is released; never by its own late.
void CheckStoresAreLate() {
  int late = 0;
  const std::string body =
      "mov.u32 %r2, %ctaid.x; setp.ne.s32 %p1, %r2, 0; @%p1 bra $L1; mov.u32 %r3, 7;\n"
      "st.relaxed.gpu.global.u32 [%rd1], %r3; st.relaxed.gpu.global.u32 [%rd1+4], %r3;\n"
      "ld.relaxed.gpu.global.u32 %r4, [%rd1]; st.global.u32 [%rd1+8], %r4; ret;\n$L1:\n"
      "ld.relaxed.gpu.global.u32 %r4, [%rd1+4]; setp.ne.s32 %p2, %r4, 7; @%p2 bra $L1;\n"
      "ld.relaxed.gpu.global.u32 %r5, [%rd1]; st.global.u32 [%rd1+12], %r5;";
  for (uint64_t seed = 1; seed < 60; ++seed) {
    std::vector<uint32_t> words(8);
    const RunResult result = Run(body, words, {2, 32, 1, 0}, seed);
    CHECK(result.error.empty() && words[2] == 7, result.error, words[2]);
    late += words[3] == 0;
  }
  CHECK(late > 0, late);  // the second store came first
}

using namespace jp::cuda;

CUresult Launch(CUfunction function, int blocks, int threads, int shared, int cluster,
                bool cooperative, void* stream) {
  static std::vector<uint32_t> words(256);
  static void* address = words.data();
  void* arguments[] = {&address};
  CUlaunchAttribute attributes[2] = {};
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attributes[0].value.cooperative = cooperative;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[1].value.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  CUlaunchConfig config{};
  config.gridDimX = static_cast<unsigned>(blocks);
  config.blockDimX = static_cast<unsigned>(threads);
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(shared);
  config.hStream = static_cast<CUstream>(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  return cuLaunchKernelEx(&config, function, arguments, nullptr);
}

void CheckDriver() {
  const SoftwareDevice devices[] = {{90, 4, 160 << 10, 16, 1 << 20, 1},
                                    {80, 4, 160 << 10, 1, 1 << 20, 0}};
  SoftwareGpuSetDevices(devices, 2);
  CUmodule module = nullptr;
  CHECK(cuModuleLoadData(&module, "x") == CUDA_ERROR_INVALID_CONTEXT);
  CUcontext contexts[2] = {};
  for (int i = 0; i < 2; ++i) cuDevicePrimaryCtxRetain(&contexts[i], i);
  void* const stream = SoftwareGpuStream(0);
  CHECK(cuInit(0) == CUDA_SUCCESS);
  cuCtxPushCurrent_v2(contexts[0]);
  CHECK(cuModuleLoadData(&module, "no PTX") == CUDA_ERROR_INVALID_IMAGE);
  CHECK(cuModuleLoadData(&module, Program("popc.b32 %r2, %r1;").c_str()) == CUDA_ERROR_INVALID_PTX);
  for (const char* target : {"sm_100", "sm_100a", "sm_80a"}) {
    CHECK(cuModuleLoadData(&module, Program("", target).c_str()) == CUDA_ERROR_NO_BINARY_FOR_GPU);
  }
  for (const char* target : {"sm_80", "sm_90", "sm_90a"}) {
    CHECK(cuModuleLoadData(&module, Program("", target).c_str()) == CUDA_SUCCESS);
  }
  CUfunction function = nullptr;
  CHECK(cuModuleGetFunction(&function, module, "another") == CUDA_ERROR_NOT_FOUND);
  CHECK(cuModuleGetFunction(&function, module, "kernel") == CUDA_SUCCESS);
  CHECK(Launch(function, 4, 256, 0, 1, true, stream) == CUDA_SUCCESS);
  CHECK(Launch(function, 5, 256, 0, 1, true, stream) == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  CHECK(Launch(function, 5, 256, 0, 1, false, stream) == CUDA_SUCCESS);
  CHECK(Launch(function, 4, 288, 0, 1, false, stream) == CUDA_ERROR_INVALID_VALUE);
  CHECK(Launch(function, 4, 32, 64 << 10, 1, false, stream) == CUDA_ERROR_INVALID_VALUE);
  const auto shared = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  CHECK(cuFuncSetAttribute(function, shared, 161 << 10) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuFuncSetAttribute(function, shared, 160 << 10) == CUDA_SUCCESS);
  CHECK(Launch(function, 4, 32, 64 << 10, 1, false, stream) == CUDA_SUCCESS);
  CHECK(Launch(function, 4, 32, 0, 4, false, stream) == CUDA_SUCCESS);
  CHECK(Launch(function, 6, 32, 0, 4, false, stream) == CUDA_ERROR_INVALID_CLUSTER_SIZE);
  CHECK(Launch(function, 16, 32, 0, 16, false, stream) == CUDA_ERROR_INVALID_CLUSTER_SIZE);
  CHECK(Launch(function, 4, 32, 0, 1, false, nullptr) == CUDA_ERROR_INVALID_HANDLE);
  CHECK(Launch(function, 4, 32, 0, 1, false, SoftwareGpuStream(1)) == CUDA_ERROR_INVALID_HANDLE);
  CHECK(cuMemsetD8Async(0, 1, 8, static_cast<CUstream>(stream)) == CUDA_ERROR_INVALID_VALUE);
  CUstream made = nullptr;
  CUdeviceptr memory = 0;
  unsigned char bytes[5] = {};
  CHECK(cuStreamCreate(&made, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  CHECK(cuMemAlloc_v2(&memory, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAlloc_v2(&memory, 5) == CUDA_SUCCESS && memory % 256 == 0, memory);
  CHECK(cuMemsetD8Async(memory, 7, 5, made) == CUDA_SUCCESS);
  CHECK(cuStreamSynchronize(made) == CUDA_SUCCESS);
  CHECK(cuMemcpyDtoH_v2(bytes, memory, 5) == CUDA_SUCCESS && bytes[0] == 7 && bytes[4] == 7);
  CHECK(cuMemcpyDtoH_v2(bytes, 0, 5) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemFree_v2(memory) == CUDA_SUCCESS);
  CHECK(cuMemFree_v2(memory) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuStreamDestroy_v2(made) == CUDA_SUCCESS);
  CHECK(cuStreamDestroy_v2(made) == CUDA_ERROR_INVALID_HANDLE);
  CUcontext popped = nullptr;
  cuCtxPopCurrent_v2(&popped);
  CHECK(cuMemAlloc_v2(&memory, 5) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(cuMemFree_v2(memory) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(cuStreamDestroy_v2(made) == CUDA_ERROR_INVALID_CONTEXT);
  CHECK(Launch(function, 4, 32, 0, 1, false, stream) == CUDA_ERROR_INVALID_CONTEXT);
  cuCtxPushCurrent_v2(contexts[1]);  // the other device's
  CHECK(Launch(function, 4, 32, 0, 1, false, SoftwareGpuStream(1)) == CUDA_ERROR_INVALID_HANDLE);
  CHECK(cuFuncSetAttribute(function, shared, 1) == CUDA_ERROR_INVALID_HANDLE);
  cuCtxPopCurrent_v2(&popped);
}

}  // namespace

int main() {
  CheckArithmetic();
  CheckNumbers();
  CheckMma();
  CheckErrors();
  CheckUnknown();
  CheckStoresAreLate();
  CheckDriver();
  return Finish("software GPU");
}
