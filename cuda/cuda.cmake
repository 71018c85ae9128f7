# SPDX-License-Identifier: Apache-2.0
# Adds the CUDA backend to the module, with GPU kernels where choose.cmake says so.
include(cuda/choose.cmake)

# What nvcc is to generate. The sources know two kinds of GPU, with and without clusters: one
# intermediate form of each does for all, where CMake would make one an architecture, which takes
# most of the time.
function(jp_gencode result)
  set(options)
  foreach(entry ${ARGN})
    if(NOT entry MATCHES "^([0-9]+)(a?)-(real|virtual)$")
      message(FATAL_ERROR "JAX_PERSISTENT_CUDA_ARCHITECTURES: expected 80-real, 90a-real, 90-virtual "
        "or the like; got ${entry}")
    endif()
    set(number ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    if(CMAKE_MATCH_3 STREQUAL "virtual")
      list(APPEND options "-gencode=arch=compute_${number},code=compute_${number}")
    elseif(CMAKE_MATCH_2)
      list(APPEND options "-gencode=arch=compute_${number},code=sm_${number}")
    elseif(CMAKE_MATCH_1 LESS 90)
      list(APPEND options "-gencode=arch=compute_80,code=sm_${number}")
    else()
      list(APPEND options "-gencode=arch=compute_90,code=sm_${number}")
    endif()
  endforeach()
  set(${result} ${options} PARENT_SCOPE)
endfunction()

# The planner and the backend are in every build: they say what a GPU would do.
target_sources(_native PRIVATE cuda/backend.cc cuda/plan.cc)
target_compile_definitions(_native PRIVATE "JP_CUDA_MISSING=\"${JP_CUDA_MISSING}\"")
if(JP_CUDA_MISSING)
  target_sources(_native PRIVATE cuda/device_missing.cc)
else()
  set(CMAKE_CUDA_COMPILER ${JP_CUDA_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below
  enable_language(CUDA)
  cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH bin)  # PyPI's runtime has its versioned name alone
  find_library(CUDA_CUDART NAMES cudart libcudart.so.13 PATHS ${bin}/../lib NO_DEFAULT_PATH)
  find_package(CUDAToolkit REQUIRED)
  if(CUDAToolkit_VERSION VERSION_LESS 13.0)
    message(WARNING "nvcc is ${CUDAToolkit_VERSION}; the GPU kernels are tested with 13.0")
  endif()
  include(cuda/instances.cmake)
  jp_cuda_instances(cu "${JP_CUDA_CELLS}" "${JP_CUDA_DTYPES}")
  jp_gencode(generate ${JP_CUDA_ARCHITECTURES})
  add_library(jp_cuda OBJECT ${JP_CUDA_INSTANCES} cuda/device.cc)
  set_target_properties(jp_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(jp_cuda PUBLIC ${PROJECT_SOURCE_DIR})
  target_include_directories(jp_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(jp_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-UNDEBUG;-Xfatbin=-compress-all;${generate}>")
  target_link_libraries(_native PRIVATE jp_cuda CUDA::cudart_static)
endif()
list(JOIN JP_CUDA_ARCHITECTURES " " JP_CUDA_ARCHITECTURES)
target_compile_definitions(_native PRIVATE "JP_CUDA_ARCHITECTURES=\"${JP_CUDA_ARCHITECTURES}\"")
