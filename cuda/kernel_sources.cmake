# SPDX-License-Identifier: Apache-2.0
# Writes the headers that kernels are compiled from into a C++ source: JP_KERNEL_SOURCES is its name.
set(JP_KERNEL_HEADERS "")
file(GLOB headers RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS
  cuda/*.h cuda/*.cuh native/cells/*.h native/cells/*.def native/problem/*.h)
list(APPEND headers
  native/portable.h native/programs/operations.def jax_persistent/problem/operands.def)
foreach(header ${headers})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${header})
  file(READ ${PROJECT_SOURCE_DIR}/${header} text)
  # Kernels include no header that includes the standard library, so no other is shipped.
  if(header MATCHES "\\.h$" AND text MATCHES "#include <" AND NOT text MATCHES "__CUDACC_RTC__")
    continue()
  endif()
  string(APPEND JP_KERNEL_HEADERS "      {\"${header}\", R\"header(${text})header\"},\n")
endforeach()
set(JP_KERNEL_SOURCES ${PROJECT_BINARY_DIR}/cuda/kernel_sources.cc)
configure_file(${PROJECT_SOURCE_DIR}/cuda/kernel_sources.cc.in ${JP_KERNEL_SOURCES} @ONLY)
