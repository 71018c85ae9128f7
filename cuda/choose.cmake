# SPDX-License-Identifier: Apache-2.0
# Chooses whether GPU kernels are built, for which GPUs, and with which nvcc.
#
# JAX_PERSISTENT_CUDA=AUTO  builds them where there is an NVIDIA GPU, for that one, if there is an
#                           nvcc: one that is named (CUDACXX), on the PATH, or PyPI's beside the
#                           Python that builds
#                     ON    builds them, for the architectures of a release; looks for an nvcc in
#                           CUDA_PATH and /usr/local/cuda, too
#                     OFF   leaves them out
# JAX_PERSISTENT_CUDA_ARCHITECTURES names others.
set(JAX_PERSISTENT_CUDA AUTO CACHE STRING
  "Build the GPU kernels: ON, OFF, or AUTO (if there is a GPU, and an nvcc on the PATH)")
set(JAX_PERSISTENT_CUDA_ARCHITECTURES "" CACHE STRING
  "As CMAKE_CUDA_ARCHITECTURES has them: 90a-real;90-virtual. Empty: the GPU's own, or a release's")
set(JP_GPU_DEVICES /proc/driver/nvidia/gpus CACHE INTERNAL "Where the driver lists its GPUs")
set(JP_RELEASE_ARCHITECTURES 80-real 86-real 89-real 90a-real 100-real 90-virtual)  # last: PTX

# The architectures of this machine's NVIDIA GPUs, or "unknown" where the driver does not say which;
# empty where there are none.
function(jp_find_gpus result)
  set(found)
  find_program(smi nvidia-smi NO_CACHE)
  set(capabilities "")
  if(smi)
    execute_process(COMMAND ${smi} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE failed TIMEOUT 30)
    if(failed)
      set(capabilities "")
    endif()
  endif()
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
  foreach(capability ${capabilities})
    string(REPLACE "." "" number ${capability})
    if(number EQUAL 90)
      list(APPEND found 90a-real)  # what is the same on all of its kind
    else()
      list(APPEND found ${number}-real)
    endif()
  endforeach()
  list(REMOVE_DUPLICATES found)
  file(GLOB devices ${JP_GPU_DEVICES}/*)
  if(devices AND NOT found)
    set(found unknown)
  endif()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

# The nvcc to build with, or empty. CMake's own search is not used: it goes on where the PATH ends.
function(jp_find_nvcc result)
  if(CMAKE_CUDA_COMPILER AND NOT CMAKE_CUDA_COMPILER STREQUAL JP_FOUND_NVCC)
    set(${result} ${CMAKE_CUDA_COMPILER} PARENT_SCOPE)
    return()
  endif()
  if(DEFINED ENV{CUDACXX})
    find_program(named $ENV{CUDACXX} NO_CACHE)
    if(NOT named)
      message(FATAL_ERROR "CUDACXX is $ENV{CUDACXX}, which is not there")
    endif()
    set(${result} ${named} PARENT_SCOPE)
    return()
  endif()
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c  # a build that pip isolates does not have purelib in sys.path
      "import sys, sysconfig; print(sysconfig.get_path('purelib'), *filter(None, sys.path), sep=';')"
    OUTPUT_VARIABLE sites OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  list(TRANSFORM sites APPEND /nvidia/cu13/bin)
  cmake_path(CONVERT "$ENV{PATH}" TO_CMAKE_PATH_LIST folders NORMALIZE)
  list(APPEND folders ${sites})
  if(NOT JAX_PERSISTENT_CUDA STREQUAL "AUTO")
    list(APPEND folders $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  endif()
  find_program(nvcc nvcc PATHS ${folders} NO_DEFAULT_PATH NO_CACHE)
  if(NOT nvcc)
    set(nvcc "")
  endif()
  # CMake remembers the compiler in CMAKE_CUDA_COMPILER, as if it had been named.
  set(JP_FOUND_NVCC "${nvcc}" CACHE INTERNAL "The nvcc that was found and not named")
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

# Sets JP_CUDA_ARCHITECTURES to what is to be built, or JP_CUDA_MISSING to why nothing is: a text
# for a compile definition, so without semicolons and quotes.
set(JP_CUDA_ARCHITECTURES ${JAX_PERSISTENT_CUDA_ARCHITECTURES})
set(JP_CUDA_MISSING "")
set(JP_CUDA_NVCC "")
set(how "build with JAX_PERSISTENT_CUDA=ON to have them (pip install: \
--config-settings=cmake.define.JAX_PERSISTENT_CUDA=ON)")
if(JAX_PERSISTENT_CUDA STREQUAL "AUTO")
  jp_find_gpus(gpus)
  if(NOT gpus)
    set(JP_CUDA_MISSING "no GPU was found, so they were not built: ${how}")
  elseif(NOT JP_CUDA_ARCHITECTURES AND NOT gpus STREQUAL "unknown")
    foreach(gpu ${gpus})
      if(gpu MATCHES "^([0-9]+)" AND CMAKE_MATCH_1 GREATER_EQUAL 80)
        list(APPEND JP_CUDA_ARCHITECTURES ${gpu})
      endif()
    endforeach()
    if(NOT JP_CUDA_ARCHITECTURES)
      list(JOIN gpus ", " gpus)
      set(JP_CUDA_MISSING "there are none for the GPU that was found (${gpus}): sm_80 is the least")
    endif()
  endif()
elseif(NOT JAX_PERSISTENT_CUDA)
  set(JP_CUDA_MISSING "switched off by JAX_PERSISTENT_CUDA=${JAX_PERSISTENT_CUDA}")
endif()
if(NOT JP_CUDA_MISSING)
  jp_find_nvcc(JP_CUDA_NVCC)
  if(NOT JP_CUDA_NVCC AND JAX_PERSISTENT_CUDA STREQUAL "AUTO")
    set(JP_CUDA_MISSING "no nvcc was found: put one on the PATH, or name it with CUDACXX")
  elseif(NOT JP_CUDA_NVCC)
    message(FATAL_ERROR "JAX_PERSISTENT_CUDA is ${JAX_PERSISTENT_CUDA}, but there is no nvcc: set "
      "CUDACXX to one, or pip install those that pyproject.toml names under cuda-build")
  elseif(NOT JP_CUDA_ARCHITECTURES)
    set(JP_CUDA_ARCHITECTURES ${JP_RELEASE_ARCHITECTURES})
  endif()
endif()
if(JP_CUDA_MISSING)
  set(JP_CUDA_ARCHITECTURES "")
  message(STATUS "GPU kernels: left out: ${JP_CUDA_MISSING}")
else()
  list(JOIN JP_CUDA_ARCHITECTURES " " text)
  message(STATUS "GPU kernels: for ${text}, with ${JP_CUDA_NVCC}")
endif()
