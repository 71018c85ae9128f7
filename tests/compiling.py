# SPDX-License-Identifier: Apache-2.0
"""How XLA compiles the tests' programs: quickly, as compiling is nearly all of the tests' time.

conftest.py sets FLAGS for the whole process, so that programs of one operation are compiled that
way too. What must be compiled as users' programs are takes `compiler_options=AS_SHIPPED`.
"""

from __future__ import annotations

import os
from importlib.metadata import version

# XLA's defaults, and what takes a fifth of the time. Neither changes what our kernels compute: they
# are compiled already.
_QUICK = {
    "xla_backend_optimization_level": (3, 0),
    "xla_llvm_disable_expensive_passes": (False, True),
    # Parts of a module that are compiled side by side: the tests' are small, and each part costs.
    "xla_cpu_parallel_codegen_split_count": (32, 1),
}
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # later XLAs have no such option
    _QUICK["xla_cpu_use_fusion_emitters"] = (True, False)

AS_SHIPPED = {name: default for name, (default, _) in _QUICK.items()}
FLAGS = tuple(f"--{name}={str(quick).lower()}" for name, (_, quick) in _QUICK.items())


def xla_flags(*flags: str) -> str:
    """For the environment of this process, or of one that it starts."""
    given = os.environ.get("XLA_FLAGS", "").split()
    names = {flag.split("=")[0] for flag in (*flags, *FLAGS)}
    kept = [flag for flag in given if flag.split("=")[0] not in names]
    return " ".join([*kept, *FLAGS, *flags])
