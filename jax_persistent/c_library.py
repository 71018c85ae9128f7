# SPDX-License-Identifier: Apache-2.0
"""`c_interface`: where a C program finds the header and the library that are installed here."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from jax_persistent.ffi.registration import HOW_TO_FIX


class CInterface(NamedTuple):
    """Where the C interface is installed.

    Attributes:
      include: the folder of `jax_persistent.h`, for `-I`.
      library: the shared library itself, for the linker or `dlopen`.
    """

    include: Path
    library: Path

    @property
    def flags(self) -> str:
        """What a C compiler's command line needs behind the sources, quoted for a shell."""
        folder = self.library.parent
        return shlex.join(
            [f"-I{self.include}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-ljax_persistent"]
        )


def c_interface() -> CInterface:
    """Where a C program finds the kernels, as `numpy.get_include` says it of numpy.

        $ cc program.c $(python -c "import jax_persistent as jp; print(jp.c_interface().flags)")

    The program needs no Python when it runs: `libjax_persistent.so` is a library of its own.

    Returns:
      A `CInterface`.

    Raises:
      ImportError: it is not installed; says what is missing, and how to mend it.
    """
    module = find_spec("jax_persistent._native")  # which need not load: jaxlib does not matter here
    if module is None or module.origin is None:
        raise ImportError(f"the C interface: expected it beside the native module. {HOW_TO_FIX}")
    folder = Path(module.origin).parent
    found = CInterface(folder / "include", folder / "lib" / "libjax_persistent.so")
    for path in (found.include / "jax_persistent.h", found.library):
        if not path.is_file():
            raise ImportError(f"the C interface: expected {path}; it is not there. {HOW_TO_FIX}")
    return found
