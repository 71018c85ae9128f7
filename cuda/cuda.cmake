# Adds the GPU kernels to the module, where there is an nvcc to build them: the one that CMake finds
# or is told of (CMAKE_CUDA_COMPILER, CUDACXX), or else PyPI's, beside the Python that builds.

set(JAX_PERSISTENT_CUDA AUTO CACHE STRING "Build the GPU kernels: ON, OFF, or AUTO (if nvcc is found)")
set(JAX_PERSISTENT_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;100-real;90-virtual"
  CACHE STRING "As CMAKE_CUDA_ARCHITECTURES has them; the last is PTX for GPUs that come later")

set(JP_CUDA_ARCHITECTURES "")  # what the module says it has
if(JAX_PERSISTENT_CUDA)
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c  # a build that pip isolates does not have purelib in sys.path
        "import sys, sysconfig; print(sysconfig.get_path('purelib'), *filter(None, sys.path), sep=';')"
      OUTPUT_VARIABLE sites OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    list(TRANSFORM sites APPEND /nvidia/cu13/bin)
    find_program(JP_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin ${sites})
    if(JP_NVCC)
      set(CMAKE_CUDA_COMPILER ${JP_NVCC})
    endif()
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH bin)  # PyPI's runtime has its versioned name alone
    find_library(CUDA_CUDART NAMES cudart libcudart.so.13 PATHS ${bin}/../lib NO_DEFAULT_PATH)
    find_package(CUDAToolkit REQUIRED)
    if(CUDAToolkit_VERSION VERSION_LESS 13.0)
      message(WARNING "nvcc is ${CUDAToolkit_VERSION}; the GPU kernels are tested with 13.0")
    endif()
    set(JP_CUDA_ARCHITECTURES ${JAX_PERSISTENT_CUDA_ARCHITECTURES})
    # The sources know two kinds of GPU, with and without clusters: one intermediate form of each does
    # for all, where CMake would make one an architecture, which takes most of the time.
    set(generate)
    foreach(entry ${JP_CUDA_ARCHITECTURES})
      if(NOT entry MATCHES "^([0-9]+)(a?)-(real|virtual)$")
        message(FATAL_ERROR "JAX_PERSISTENT_CUDA_ARCHITECTURES: expected 80-real, 90a-real, 90-virtual "
          "or the like; got ${entry}")
      endif()
      set(number ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
      if(CMAKE_MATCH_3 STREQUAL "virtual")
        list(APPEND generate "arch=compute_${number},code=compute_${number}")
      elseif(CMAKE_MATCH_2)
        list(APPEND generate "arch=compute_${number},code=sm_${number}")
      elseif(CMAKE_MATCH_1 LESS 90)
        list(APPEND generate "arch=compute_80,code=sm_${number}")
      else()
        list(APPEND generate "arch=compute_90,code=sm_${number}")
      endif()
    endforeach()
    list(TRANSFORM generate PREPEND "-gencode=")
  elseif(NOT JAX_PERSISTENT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "JAX_PERSISTENT_CUDA is ${JAX_PERSISTENT_CUDA}, but there is no nvcc: set "
      "CUDACXX to one, or pip install those that pyproject.toml names under cuda-build")
  else()
    message(STATUS "No nvcc: the GPU kernels are left out")
  endif()
endif()

if(JP_CUDA_ARCHITECTURES)
  jp_cuda_instances(cu)
  add_library(jp_cuda OBJECT ${JP_CUDA_INSTANCES} cuda/kernels.cc cuda/gpu.cc)
  set_target_properties(jp_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(jp_cuda PUBLIC ${PROJECT_SOURCE_DIR})
  target_include_directories(jp_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(jp_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-UNDEBUG;-Xfatbin=-compress-all;${generate}>")
  target_sources(_native PRIVATE native/ffi/gpu_handlers.cc)
  target_link_libraries(_native PRIVATE jp_cuda CUDA::cudart_static)
endif()
list(JOIN JP_CUDA_ARCHITECTURES " " JP_CUDA_ARCHITECTURES)
target_compile_definitions(_native PRIVATE "JP_CUDA_ARCHITECTURES=\"${JP_CUDA_ARCHITECTURES}\"")
if(JP_CUDA_ARCHITECTURES)
  target_compile_definitions(_native PRIVATE JP_WITH_CUDA)
endif()
