# SPDX-License-Identifier: Apache-2.0
"""The C interface as it is installed: found, compiled against as C and as C++, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import jax_persistent as jp
from jax_persistent import c_library

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_header_that_is_installed_is_this_one() -> None:
    installed = jp.c_interface().include / "jax_persistent.h"
    assert installed.read_text() == (ROOT / "native/c/jax_persistent.h").read_text()


def test_the_example_learns(tmp_path: Path) -> None:
    """Compiled by its own Makefile, with nothing but what `c_interface` says."""
    example = shutil.copytree(ROOT / "examples/c", tmp_path / "c")
    flags = "CFLAGS=-O2 -Wall -Wextra -Werror"
    said = run("make", "run", f"PYTHON={sys.executable}", flags, folder=example)
    losses = [float(loss) for loss in re.findall(r"update +\d+: loss ([\d.]+)", said)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 5
    assert "L2" in said  # where the plan says that the weights stay


def test_the_header_is_cpp_too(tmp_path: Path) -> None:
    """Of 2011, by the ordinary compiler: no cast and no initialiser that C++ has not."""
    program = tmp_path / "program.cc"
    program.write_text(
        '#include "jax_persistent.h"\n'
        "int main() {\n"
        "  jp_device_options options{};\n"
        "  options.struct_size = sizeof options;\n"
        '  options.platform = "cpu";\n'
        "  jp_device* device = nullptr;\n"
        '  static_assert(noexcept(jp_device_destroy(device)), "no exception leaves the library");\n'
        "  const jp_status status = jp_device_create(&options, &device);\n"
        "  jp_device_destroy(device);\n"
        "  return status != JP_OK || jp_version() != JP_VERSION;\n"
        "}\n"
    )
    flags = jp.c_interface().flags.split()
    strict = ("-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror")
    run("c++", *strict, "program.cc", "-o", "program", *flags, folder=tmp_path)
    run("./program", folder=tmp_path)


def test_the_page_shows_programs_that_compile(tmp_path: Path) -> None:
    page = (ROOT / "docs/c_interface.md").read_text()
    shown, lending = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    names = re.findall(r"= \{?(\w+)\}?[,}].*//", shown)
    (tmp_path / "shown.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <jax_persistent.h>\n"
        + "extern int my_pool[];\nvoid my_pool_add(void*, void (*)(void*), void*);\n"
        + lending
        + "".join(f"static {'int32_t' if n == 'lengths' else 'float'} {n}[1];\n" for n in names)
        + f"int main(void) {{\n{shown}return 0;\n}}\n"
    )
    include = f"-I{jp.c_interface().include}"
    run("cc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", include, "shown.c", folder=tmp_path)


@pytest.mark.parametrize("installed", [False, True])
def test_what_is_missing_is_named(
    installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    origin = str(tmp_path / "_native.so")
    spec = SimpleNamespace(origin=origin) if installed else None
    monkeypatch.setattr(c_library, "find_spec", lambda _: spec)
    says = r"expected .*include/jax_persistent\.h; it is not there" if installed else "expected it"
    with pytest.raises(ImportError, match=rf"the C interface: {says}.*pip install"):
        jp.c_interface()
