# SPDX-License-Identifier: Apache-2.0
# Fails if an instruction set's object defines a symbol that another object may define too: the
# linker would keep either, and so run instructions that the machine may not have.
#
# cmake -DNM=... -DOBJECT=... -DISA=... -P check_symbols.cmake
execute_process(COMMAND ${NM} -C --defined-only ${OBJECT} OUTPUT_VARIABLE symbols
  COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]*" shared "${symbols}")
list(FILTER shared EXCLUDE REGEX "jp::(cpu|test)::${ISA}::")
if(shared)
  list(JOIN shared "\n" shared)
  message(FATAL_ERROR "${OBJECT} shares:\n${shared}")
endif()
