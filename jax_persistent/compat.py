"""The one file that knows versions: what differs between jax releases, or is not public in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
from jax import Array
from jax._src import core, dispatch
from jax.extend.core import Primitive


def match_varying_axes(*arrays: Array) -> tuple[Array, ...]:
    """Marks every array as varying over the manual mesh axes that any of them varies over.

    `jax.shard_map` with `check_vma=True` asks this of a primitive's operands.
    """
    return tuple(core.auto_insert_reshard(*arrays))


def lowers_with_devices(primitive: Primitive) -> None:
    """Lets a lowering rule of `primitive` use `custom_partitioning`, which asks for the devices."""
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def result_aval(like: Any, shape: tuple[int, ...]) -> Any:
    """The type of a primitive's result: `like` (of the same rank) with another shape."""
    return like.update(shape=shape, weak_type=False)


def runtime_ffi_version() -> tuple[int, int] | None:
    """(major, minor) of XLA's FFI in the jaxlib that runs, from the headers it ships."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    try:
        text = header.read_text()
    except OSError:
        return None
    found = [
        re.search(rf"#define\s+XLA_FFI_API_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR")
    ]
    major, minor = (int(m.group(1)) if m else -1 for m in found)
    return (major, minor) if major >= 0 and minor >= 0 else None
