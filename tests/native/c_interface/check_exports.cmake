# SPDX-License-Identifier: Apache-2.0
# Fails unless the library's dynamic symbols are the functions that its header declares.
#
# cmake -DNM=... -DLIBRARY=... -DHEADER=... -P check_exports.cmake
execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY} OUTPUT_VARIABLE symbols
  COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^ \n]+@@JAX_PERSISTENT_1" exported "${symbols}")
list(TRANSFORM exported REPLACE "@@.*" "")
string(REGEX MATCHALL "[0-9a-f]+ [^A] [^\n]+" all "${symbols}")
file(READ ${HEADER} text)
string(REGEX MATCHALL "JP_API [^(;]*[ *](jp_[a-z_]+)\\(" declared "${text}")
list(TRANSFORM declared REPLACE ".*[ *](jp_[a-z_]+)\\(" "\\1")
list(SORT exported)
list(SORT declared)
list(LENGTH all count)
list(LENGTH declared expected)
if(NOT exported STREQUAL declared OR NOT count EQUAL expected)
  message(FATAL_ERROR "exported: ${all}\ndeclared: ${declared}")
endif()
