# SPDX-License-Identifier: Apache-2.0
"""The one file that knows versions: what differs between jax releases, or is not public in them.

What is private in them is probed by `jax_private`; here is what is made of it.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import partial_eval
from jax.sharding import PartitionSpec

from jax_persistent.jax_private import (
    config,
    features,
    has,
    insert_varying,
    lacking,
    mlir,
    report,
    sharding_rules,
    source_info_util,
    xla_bridge,
    xla_client,
)

__all__ = ["features", "has", "lacking", "report"]  # for others, besides what is here


def nvrtc_files() -> list[str]:
    """The compilers of CUDA kernels that jax's wheels of CUDA 13 and 12 bring, the newest first."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    packages = ("cu13", "cuda_nvrtc")
    found = [Path(f, p, "lib").glob("libnvrtc.so.*") for p in packages for f in folders]
    return [str(file) for files in found for file in sorted(files) if "alt" not in file.name]


def match_varying_axes(*arrays: Array) -> tuple[Array, ...]:
    """Marks every array as varying over the manual mesh axes that any of them varies over.

    `jax.shard_map` with `check_vma=True` asks this of a primitive's operands.
    """
    return tuple(insert_varying()(*arrays)) if has("varying") else arrays


def result_aval(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The type of a primitive's result: it varies over the manual mesh axes that `like` does."""
    sharding = like.sharding.update(spec=PartitionSpec(*[None] * len(shape)))
    return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)


def has_plain_type(array: Array) -> bool:
    """Whether an array's type says no more than shape and dtype: nothing of a mesh's axes."""
    aval = jax.typeof(array)
    return aval == jax.core.ShapedArray(aval.shape, aval.dtype, weak_type=aval.weak_type)


def leave_out_unread(primitive: Primitive, rule: Callable[..., tuple[list[bool], Any]]) -> None:
    """Has jax ask a rule what an equation is without the results that nobody reads.

    The rule takes (which results are read, the equation). jax 0.12 says in between which operands
    are.
    """
    if has("unread"):
        partial_eval.dce_rules[primitive] = lambda used, *more: rule(used, more[-1])


def apply_primitive(primitive: Primitive, *operands: Any, **params: Any) -> Any:
    """Runs a primitive by itself, compiled, as jax runs its own: under `jax.disable_jit` too."""
    with jax.disable_jit(False):
        return _compiled(primitive, tuple(params.items()))(*operands)


@lru_cache(maxsize=4096)
def _compiled(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def run(*operands: Any) -> Any:
        return primitive.bind(*operands, **dict(params))

    run.__name__ = primitive.name
    return jax.jit(run)


def bind_equation(equation: Any, operands: Sequence[Any], caller: Any = None) -> list[Any]:
    """An equation's results for other operands; what it becomes knows the same line of source.

    The functions of jax's own that are traced once for all callers have no such line: those have
    that of `caller`, the equation that calls them.
    """
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    source = equation.source_info
    lines = lacking("lines") is None
    if lines and caller is not None and source_info_util.user_frame(source.traceback) is None:
        source = caller.source_info
    with source_info_util.user_context(source.traceback) if lines else nullcontext():
        found = equation.primitive.bind(*functions, *operands, **params)
    return list(found) if equation.primitive.multiple_results else [found]


def line_of(equation: Any) -> str:
    """Where in the user's source an equation comes from."""
    return str(source_info_util.summarize(equation.source_info)) if has("lines") else "its source"


def lines_of(equation: Any) -> list[tuple[str, int, str]]:
    """(file, line, function) of each call that an equation comes from, the innermost first.

    Those in jax are left out.
    """
    frames = source_info_util.user_frames(equation.source_info.traceback)
    return [(frame.file_name, frame.start_line, frame.function_name) for frame in frames]


# jax's matmul precisions that tf32 satisfies, as it does on a GPU for jax's own products.
_AT_MOST_TF32 = (
    "default",
    "high",
    "bfloat16",
    "tensorfloat32",
    "BF16_BF16_BF16",
    "BF16_BF16_F32",
    "F16_F16_F16",
    "F16_F16_F32",
    "TF32_TF32_F32",
)


def tf32_is_asked_for() -> bool:
    """Whether the user asks for less than float32, as with `jax.default_matmul_precision`."""
    return matmul_precision() in _AT_MOST_TF32


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


# Splitting a custom call over devices. XLA's partitioner asks back through callbacks that jax
# keeps to itself, and its shardings are lists of devices, with no mesh and no names.

REPLICATED = xla_client.OpSharding.Type.REPLICATED if lacking("splitting") is None else None


class Tiles(NamedTuple):
    """A sharding: which device has which piece of an array."""

    devices: np.ndarray  # [pieces of each dimension.., devices of each subgroup..]
    kinds: tuple[Any, ...]  # of the subgroups: the devices of a REPLICATED one have the same piece


def tiles_of(sharding: Any, rank: int) -> Tiles:
    """What XLA's sharding of an array of this rank says; without one there is one piece."""
    if sharding is None or not sharding.is_tiled():
        return Tiles(np.zeros((1,) * rank, np.int64), ())
    kinds = tuple(sharding.subgroup_types())
    if sharding.replicate_on_last_tile_dim():
        kinds = (REPLICATED,)
    devices = np.asarray(sharding.tile_assignment_devices(), np.int64)
    return Tiles(devices.reshape(sharding.tile_assignment_dimensions()), kinds)


def sharding_of(tiles: Tiles) -> Any:
    """A sharding that XLA reads."""
    rank = tiles.devices.ndim - len(tiles.kinds)
    if set(tiles.kinds) <= {REPLICATED} and set(tiles.devices.shape[:rank]) <= {1}:
        return xla_client.HloSharding.replicate()
    return xla_client.HloSharding.subgroup_with_device_ordering(tiles.devices, tiles.kinds)


def shape_of_a_tile(shape: Any, sharding: Any) -> tuple[int, ...]:
    """How much of an array a device has; rounded up where it doesn't divide."""
    return tuple(sharding.tile(shape).dimensions())


def is_split_by_xla(ctx: Any) -> bool:
    """Whether the program that a lowering rule adds to will be split over devices by XLA."""
    axes = ctx.module_context.axis_context
    if hasattr(axes, "manual_axes"):
        return axes.mesh.size > 1 and axes.manual_axes != frozenset(axes.mesh.axis_names)
    return getattr(axes, "num_devices", 1) > 1


def split_call(
    ctx: Any,
    target: str,
    description: str,
    label: str,
    operands: Sequence[Any],
    operand_dims: Sequence[str],
    result_dims: Sequence[str],
    whole: Sequence[str],
) -> Sequence[Any]:
    """A custom call that XLA replaces by what the partitioner of `target` makes of `description`.

    The dimensions named in `whole` are not split. What it becomes is called `label` in profiles: it
    takes the place and the name of this call.
    """
    types = [mlir.aval_to_ir_type(ctx.module_context, aval) for aval in ctx.avals_out]
    scope = ctx.name_stack.extend(label)
    place = mlir.source_info_to_location(ctx.module_context, ctx.primitive, scope, ctx.traceback)
    with place:
        call = mlir.custom_call(
            target, result_types=types, operands=operands, backend_config=description
        )
    shardy = getattr(config, "use_shardy_partitioner", None)  # the other one is on its way out
    if shardy is None or shardy.value:
        rule = sharding_rules.str_to_sdy_sharding_rule(
            f"{', '.join(operand_dims)} -> {', '.join(result_dims)}",
            need_replication_factors=tuple(whole),
        )
        call.attributes["sdy.sharding_rule"] = sharding_rules.sdy_sharding_rule_to_mlir(
            rule, [operand.type for operand in operands], types
        )
    return call.results


def runs_without_jit() -> bool:
    """`jax.disable_jit` as it is here."""
    return getattr(jax.config, "jax_disable_jit", False)


def matmul_precision() -> str | None:
    """`jax.default_matmul_precision` as it is here; for `module_of`."""
    return getattr(jax.config, "jax_default_matmul_precision", None)


def module_of(
    function: Callable[..., Any], operands: Sequence[Any], platform: str, precision: str | None
) -> bytes:
    """A function on one device's arrays as bytecode of StableHLO.

    Whatever the thread that asks has configured, a mesh above all: 64-bit types are what they are,
    and products have `precision`.
    """

    def lowered() -> bytes:
        with jax.enable_x64(True), jax.default_matmul_precision(precision):
            program = jax.jit(function).trace(*operands).lower(lowering_platforms=(platform,))
        text = io.BytesIO()
        program.compiler_ir("stablehlo").operation.write_bytecode(text)
        return text.getvalue()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lowered).result()


def register_partitioner(
    target: str,
    placed: Callable[[str, Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]],
    program: Callable[[str, Sequence[Any], Sequence[Any]], bytes],
) -> None:
    """Has XLA ask how to split the calls of `target`. What is asked must not raise.

    Without a way to have it ask, nothing is done; `has("splitting")` says so to who would need it.

    Args:
      target: the name of the calls.
      placed: from a call's description and the shardings of its operands to the shardings that it
        wants, of operands and of results.
      program: from the description and the operands' shapes and shardings to one device's program.
    """

    def split(shapes: Any, shardings: Any, result: Any, _: Any, description: bytes) -> Any:
        call = description.decode()
        operands, results = placed(call, shardings)
        return program(call, shapes, operands), operands, _packed(result, results)

    def inferred(shapes: Any, shardings: Any, result: Any, description: bytes) -> Any:
        del shapes
        return _packed(result, placed(description.decode(), shardings)[1])

    def asked_for(sharding: Any, shape: Any, description: bytes) -> Any:
        del shape, description
        return sharding

    if lacking("splitting") is not None:
        return
    register = partial(
        xla_client.register_custom_call_partitioner, target, asked_for, split, inferred
    )
    register()
    xla_bridge.register_plugin_callbacks(register)


def _packed(result: Any, shardings: Sequence[Any]) -> Any:
    if result.is_tuple():
        return xla_client.HloSharding.tuple_sharding(result, shardings)
    return shardings[0]
