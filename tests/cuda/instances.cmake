# SPDX-License-Identifier: Apache-2.0
# The kernels' translation units, one a cell and a precision, and the table of them.

# Writes those of `cells` and `dtypes`, structs of native/cells and cuda/dtypes.h; sets
# JP_CUDA_INSTANCES to them and the table, in the caller's scope.
function(jp_cuda_instances cells dtypes)
  set(instances)
  set(JP_KERNEL_DECLARATIONS "")
  set(JP_KERNEL_CASES "")
  foreach(cell ${cells})
    foreach(dtype ${dtypes})
      set(file ${PROJECT_BINARY_DIR}/cuda/${cell}${dtype}.cc)
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
