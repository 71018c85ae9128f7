# SPDX-License-Identifier: Apache-2.0
"""`pack`: kernels brought into the order in which a CPU's products read them, once for many calls.

Packed kernels are constants to derivatives: whoever differentiates with respect to them, or to what
they were made of, is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_persistent import compat
from jax_persistent.cells import Cell
from jax_persistent.ffi import call
from jax_persistent.ffi.registration import native_module
from jax_persistent.ops.plan import cell_of
from jax_persistent.problem import PackedKernel
from jax_persistent.problem.packed import check_constant

_DTYPES = ("float32", "bfloat16")  # of the CPU's kernels


def pack(cell: str, kernels: Any) -> Any:
    """Packs kernels for a CPU, once for many calls of few steps: a decoder's, a policy's.

        >>> w, r = jp.pack("lstm", (input_kernel, recurrent_kernel))
        >>> outputs, state = jp.lstm(x, w, r, bias, state)
        >>> r = jp.pack("scan", matrix)
        >>> h, ys = jp.scan(lambda h, x: (jnp.tanh(x + h @ r), None), h, xs)

    A call reads kernels where they lie in a few steps of a few rows, and packs them for more: both
    are faster with packed ones. The results are the same, bit for bit.

    A step of `scan` has `vectors @ packed` in place of `vectors @ matrix`, and no other operation
    on what is packed. The scan reads the packed matrix itself where the vectors are made of the
    carry; so do float32 products of up to 128 vectors of xs, of an even size, whose last bits may
    differ from those of XLA's product. Elsewhere (`lax.scan`, other platforms, a batch that XLA
    splits over devices, outside of a scan) it is unpacked first, and `explain` says so.

    What is returned is a pytree, and goes through `jax.jit`, `jax.vmap`, loops and donation as
    arrays do; so does `pack` itself, and `jax.vmap` of both runs an ensemble. It serves any batch,
    number of steps and of threads, but only processors whose vectors are as wide: it is made where
    it is used, and not saved.

    Packed kernels are for inference: a derivative with respect to them, or to kernels that are
    packed on the way, raises. Other derivatives unpack them first.

    Args:
      cell: "lstm", "gru" or "elman", whose function takes them; "scan" for matrices of a step.
      kernels: an array [K, G*H], as that function takes it, or a matrix [K, N] of a step; or a
        pytree of them; float32 or bfloat16.

    Returns:
      The same with a `PackedKernel` in place of each array.

    Raises:
      ValueError: an unknown cell, or an array of another shape or dtype.
      ImportError: the native module can't be loaded.
      NotImplementedError: the kernels are on another device than a CPU.
    """
    known = None if cell == "scan" else cell_of(cell)

    def packed(path: Any, kernel: Any) -> PackedKernel:
        return pack_kernel(known, f"kernels{jax.tree_util.keystr(path)}", kernel)

    return jax.tree.map_with_path(packed, kernels)


def pack_kernel(cell: Cell | None, name: str, kernel: Any) -> PackedKernel:
    """A kernel [K, G*H], or without a cell a matrix, packed; raises as `pack` does."""
    try:
        kernel = jnp.asarray(kernel)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array; got {type(kernel).__name__}") from error
    gates = 1 if cell is None else cell.gates
    if kernel.ndim != 2 or 0 in kernel.shape or kernel.shape[1] % gates:
        wanted = "[K, N]" if cell is None else f"[K, {gates}*H] for cell {cell.name!r}"
        raise ValueError(
            f"{name}: expected {wanted}; got shape {kernel.shape}. Use jax.vmap over further axes"
        )
    if not is_packable(kernel.dtype):
        raise ValueError(
            f"{name}: expected dtype {' or '.join(_DTYPES)}, for which a CPU has kernels; got "
            f"{kernel.dtype.name}"
        )
    rows, columns = kernel.shape
    lanes = native_module().facts("cpu")["lanes"]
    (panels,) = pack_p.bind(kernel[None], gates=gates, lanes=lanes)
    return PackedKernel(panels[0], gates, rows, columns // gates, lanes)


def is_packable(dtype: Any) -> bool:
    """Whether a CPU has kernels for it."""
    return jnp.dtype(dtype).name in _DTYPES


def in_place_of(gates: tuple[Array, ...], packed: PackedKernel) -> PackedKernel:
    """What was packed of a kernel, in a way that a derivative with respect to the kernel sees.

    The kernel is one array, or one for each gate.
    """
    return replace(packed, panels=_in_place_of(packed.panels, gates))


@jax.custom_jvp
def _in_place_of(panels: Array, gates: tuple[Array, ...]) -> Array:
    del gates
    return panels


@partial(_in_place_of.defjvp, symbolic_zeros=True)
def _in_place_of_jvp(primals: Any, tangents: Any) -> Any:
    check_constant(any(type(tangent) is not SymbolicZero for tangent in tangents[1]))
    return primals[0], tangents[0]


def _abstract(kernels: Any, *, gates: int, lanes: int) -> list[Any]:
    count, rows, columns = kernels.shape
    one = PackedKernel(kernels, gates, rows, columns // gates, lanes)
    return [compat.result_aval(kernels, (count, *one.panels_shape), kernels.dtype)]


def _batch(
    operands: Sequence[Array], axes: Sequence[int], *, gates: int, lanes: int
) -> tuple[list[Array], list[int]]:
    kernels = jnp.moveaxis(operands[0], axes[0], 0)
    size, count, *sizes = kernels.shape
    flat = kernels.reshape(size * count, *sizes)
    (panels,) = pack_p.bind(flat, gates=gates, lanes=lanes)
    return [panels.reshape(size, count, *panels.shape[1:])], [0]


def _jvp(primals: Any, tangents: Any, **how: int) -> tuple[list[Array], list[Any]]:
    check_constant(type(tangents[0]) is not ad.Zero)
    found = pack_p.bind(*primals, **how)
    return found, [ad.Zero(jax.typeof(panels).to_tangent_aval()) for panels in found]


def _elsewhere(ctx: Any, *operands: Any, **how: int) -> Any:
    del ctx, operands, how
    raise NotImplementedError(
        "jax_persistent.pack: only a CPU's kernels read packed kernels; pass the kernels themselves"
    )


pack_p = Primitive("jax_persistent_pack")
pack_p.multiple_results = True
pack_p.def_impl(partial(compat.apply_primitive, pack_p))
pack_p.def_abstract_eval(_abstract)
batching.primitive_batchers[pack_p] = _batch
ad.primitive_jvps[pack_p] = _jvp
mlir.register_lowering(pack_p, mlir.lower_fun(call.pack_call, multiple_results=True), "cpu")
mlir.register_lowering(pack_p, _elsewhere)
