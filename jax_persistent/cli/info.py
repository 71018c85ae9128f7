# SPDX-License-Identifier: Apache-2.0
"""Prints what is installed here, and whether it works."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import jax

import jax_persistent
from jax_persistent import compat
from jax_persistent.cli.report import Report, Table
from jax_persistent.ffi.registration import native_module

HELP = "versions, kernels, caches"

_PACKAGES = ("jax", "jaxlib", "flax")
_SOURCES = (".cc", ".h", ".cuh", ".in", ".def", ".cmake")


def newer_source(module: ModuleType) -> Path | None:
    """A native source of this checkout that the built module is older than; None if it is current.

    An installed package has no sources beside it, and is always current.
    """
    root = Path(jax_persistent.__file__).parents[1]
    folders = (root / "native", root / "cuda")
    sources = [p for f in folders for p in f.rglob("*") if p.suffix in _SOURCES]
    newest = max(sources, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None or module.__file__ is None:
        return None
    return newest if newest.stat().st_mtime > Path(module.__file__).stat().st_mtime else None


def describe_environment() -> Iterator[tuple[str, str]]:
    yield "jax_persistent", jax_persistent.__version__
    for package in _PACKAGES:
        yield package, version(package)
    yield "python", platform.python_version()
    yield "platform", f"{platform.system()} {platform.machine()}"
    yield "devices", ", ".join(str(device) for device in jax.devices())
    yield "private parts", compat.report()
    found = compat.runtime_ffi_version()
    yield "XLA FFI of jaxlib", "unknown" if found is None else "{}.{}".format(*found)


def describe_native(module: ModuleType) -> Iterator[tuple[str, str]]:
    yield "native module", str(module.__file__)
    yield "built against", "XLA FFI {}.{}".format(*module.ffi_version())
    facts = module.facts("cpu")
    yield "CPU kernels", f"{module.cpu_isa()}, {facts['lanes']} float32 lanes"
    yield "CPU bfloat16", module.cpu_bfloat16()
    yield "CPU threads", str(facts["threads"])
    yield "CPU caches", f"L2 {facts['l2_bytes'] >> 10} KiB a core, L3 {facts['l3_bytes'] >> 10} KiB"
    yield from module.report("CUDA")


def add(command: argparse.ArgumentParser) -> None:
    del command


def run(options: argparse.Namespace) -> Report:
    """The exit status is 1 if the native module can't be used as it is."""
    del options
    facts, errors = list(describe_environment()), []
    try:
        module = native_module()
        facts += describe_native(module)
        newer = newer_source(module)
        if newer is not None:
            errors.append(f"native module: older than {newer}: run `make setup`")
    except (ImportError, RuntimeError) as error:
        errors.append(f"native module: {error}")
    data = {**dict(facts), "errors": errors}
    return Report(data, [Table((), facts)], errors, status=1 if errors else 0)
