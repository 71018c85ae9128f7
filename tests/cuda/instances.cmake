# SPDX-License-Identifier: Apache-2.0
# The kernels' translation units, one a cell and a precision, and the table of them.

file(STRINGS ${PROJECT_SOURCE_DIR}/native/cells/cells.def JP_CUDA_CELLS REGEX "^JP_CELL\\(")
list(TRANSFORM JP_CUDA_CELLS REPLACE "^JP_CELL\\([^,]+, *([A-Za-z0-9]+)\\).*$" "\\1")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/native/cells/cells.def)
set(JP_CUDA_DTYPES Bfloat16 Float16 Tf32 Float32)  # of cuda/dtypes.h

# Writes those of `cells` and `dtypes` as files of the language that `extension` stands for; sets
# JP_CUDA_INSTANCES to them and the table, in the caller's scope.
function(jp_cuda_instances extension cells dtypes)
  set(instances)
  set(JP_KERNEL_DECLARATIONS "")
  set(JP_KERNEL_CASES "")
  foreach(cell ${cells})
    foreach(dtype ${dtypes})
      set(file ${PROJECT_BINARY_DIR}/cuda/${cell}${dtype}.${extension})
      configure_file(${PROJECT_SOURCE_DIR}/tests/cuda/instance.in ${file} @ONLY)
      list(APPEND instances ${file})
      string(APPEND JP_KERNEL_DECLARATIONS "KernelSet ${cell}${dtype}Kernels();\n")
      string(APPEND JP_KERNEL_CASES "  if (cell == CellKind::k${cell} && precision == "
        "Precision::k${dtype}) return ${cell}${dtype}Kernels();\n")
    endforeach()
  endforeach()
  set(table ${PROJECT_BINARY_DIR}/cuda/kernels.cc)
  configure_file(${PROJECT_SOURCE_DIR}/tests/cuda/kernels.cc.in ${table} @ONLY)
  set(JP_CUDA_INSTANCES ${instances} ${table} PARENT_SCOPE)
endfunction()
