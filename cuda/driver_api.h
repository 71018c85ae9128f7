// SPDX-License-Identifier: Apache-2.0
// The part of CUDA's driver API that the package calls, declared here so that building it takes no
// toolkit. Layouts and numbers are those of cuda.h, where they are promised to stay as they are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jp::cuda {

enum CUresult : int {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_MISALIGNED_ADDRESS = 716,
  CUDA_ERROR_INVALID_ADDRESS_SPACE = 717,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_ASSERT = 710,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720,
  CUDA_ERROR_INVALID_CLUSTER_SIZE = 912,
};

using CUdevice = int;
using CUdeviceptr = uint64_t;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUarray = struct CUarray_st*;

enum CUdevice_attribute : int {
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH = 95,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH = 120,
};

enum CUfunction_attribute : int {
  CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
  CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3,
  CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
};

enum CUlaunchAttributeID : int {
  CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
  CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
};

enum CUstream_flags : int { CU_STREAM_NON_BLOCKING = 1 };

union CUlaunchAttributeValue {
  char pad[64];
  int cooperative;
  struct {
    unsigned x, y, z;
  } clusterDim;
};

struct CUlaunchAttribute {
  CUlaunchAttributeID id;
  char pad[8 - sizeof(CUlaunchAttributeID)];
  CUlaunchAttributeValue value;
};

struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ;
  unsigned blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute* attrs;
  unsigned numAttrs;
};

enum CUmemorytype : int { CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2 };

struct CUDA_MEMCPY2D {
  size_t srcXInBytes, srcY;
  CUmemorytype srcMemoryType;
  const void* srcHost;
  CUdeviceptr srcDevice;
  CUarray srcArray;
  size_t srcPitch;
  size_t dstXInBytes, dstY;
  CUmemorytype dstMemoryType;
  void* dstHost;
  CUdeviceptr dstDevice;
  CUarray dstArray;
  size_t dstPitch;
  size_t WidthInBytes, Height;
};

// The functions, by the names that libcuda exports: X(member, symbol, parameters).
#define JP_CUDA_DRIVER_FUNCTIONS(X)                                                             \
  X(Init, "cuInit", (unsigned flags))                                                           \
  X(DriverGetVersion, "cuDriverGetVersion", (int* version))                                     \
  X(GetErrorName, "cuGetErrorName", (CUresult error, const char** name))                        \
  X(GetErrorString, "cuGetErrorString", (CUresult error, const char** text))                    \
  X(DeviceGetCount, "cuDeviceGetCount", (int* count))                                           \
  X(DeviceGet, "cuDeviceGet", (CUdevice * device, int ordinal))                                 \
  X(DeviceGetName, "cuDeviceGetName", (char* name, int bytes, CUdevice device))                 \
  X(DeviceGetAttribute, "cuDeviceGetAttribute",                                                 \
    (int* value, CUdevice_attribute attribute, CUdevice device))                                \
  X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext * context, CUdevice device)) \
  X(DevicePrimaryCtxGetState, "cuDevicePrimaryCtxGetState",                                     \
    (CUdevice device, unsigned* flags, int* active))                                            \
  X(CtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext context))                                 \
  X(CtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext * context))                                 \
  X(ModuleLoadData, "cuModuleLoadData", (CUmodule * module, const void* image))                 \
  X(ModuleGetFunction, "cuModuleGetFunction",                                                   \
    (CUfunction * function, CUmodule module, const char* name))                                 \
  X(FuncGetAttribute, "cuFuncGetAttribute",                                                     \
    (int* value, CUfunction_attribute attribute, CUfunction function))                          \
  X(FuncSetAttribute, "cuFuncSetAttribute",                                                     \
    (CUfunction function, CUfunction_attribute attribute, int value))                           \
  X(OccupancyMaxActiveClusters, "cuOccupancyMaxActiveClusters",                                 \
    (int* clusters, CUfunction function, const CUlaunchConfig* config))                         \
  X(StreamCreate, "cuStreamCreate", (CUstream * stream, unsigned flags))                        \
  X(StreamDestroy, "cuStreamDestroy_v2", (CUstream stream))                                     \
  X(StreamSynchronize, "cuStreamSynchronize", (CUstream stream))                                \
  X(LaunchKernelEx, "cuLaunchKernelEx",                                                         \
    (const CUlaunchConfig* config, CUfunction function, void** arguments, void** extra))        \
  X(MemsetD8Async, "cuMemsetD8Async",                                                           \
    (CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream))                        \
  X(MemAlloc, "cuMemAlloc_v2", (CUdeviceptr * memory, size_t bytes))                            \
  X(MemFree, "cuMemFree_v2", (CUdeviceptr memory))                                              \
  X(MemcpyDtoH, "cuMemcpyDtoH_v2", (void* to, CUdeviceptr from, size_t bytes))                  \
  X(Memcpy2DAsync, "cuMemcpy2DAsync_v2", (const CUDA_MEMCPY2D* copy, CUstream stream))

}  // namespace jp::cuda
