# SPDX-License-Identifier: Apache-2.0
"""Every check of a caller's arguments; what passes is valid for every backend.

Each raises ValueError naming the argument, what was expected and what was given.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from jax_persistent.cells import Cell
from jax_persistent.cells.elman import ELMAN
from jax_persistent.problem import DTYPES, Arrays, PackedKernel

BACKENDS = (None, "native", "reference")


def elman_cell(activation: str) -> Cell:
    """The Elman cell with this activation; ValueError for one there is no cell for."""
    if not isinstance(activation, str) or activation not in ELMAN:
        known = ", ".join(map(repr, ELMAN))
        raise ValueError(f"activation: expected one of {known}; got {activation!r}")
    return ELMAN[activation]


def check_flags(backend: Any, **flags: Any) -> None:
    if backend not in BACKENDS:
        raise ValueError(
            f"backend: expected None (choose), 'native' or 'reference'; got {backend!r}"
        )
    check_bools(**flags)


def check_bools(**flags: Any) -> None:
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name}: expected a Python bool; got {value!r}")


def check_call(
    cell: Cell,
    *,
    initial_state: Any,
    lengths: Any,
    resets: Any,
    reset_state: Any,
    time_major: bool,
    **weights: Any,
) -> Arrays:
    """Checks the arrays of a call against each other.

    Returns them as jax arrays by name, without those that were not given. Only lengths are changed:
    see `check_lengths`.
    """
    arrays = check_weights(cell, time_major, weights)
    x, hidden = arrays.x, arrays.recurrent_kernel.shape[0]
    batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
    if lengths is not None:
        arrays["lengths"] = check_lengths(lengths, batch, steps)
    if resets is not None:
        arrays["resets"] = check_resets(resets, batch, steps, time_major)
    for name, state in (("initial_state", initial_state), ("reset_state", reset_state)):
        if state is not None:
            arrays[name] = check_state(name, cell, state, x, batch, hidden)
    if reset_state is not None and resets is None:
        raise ValueError(
            "reset_state: expected with resets, which say where it counts; got no resets"
        )
    return arrays


def check_weights(cell: Cell, time_major: bool, given: dict[str, Any]) -> Arrays:
    """x, the kernels, the biases and peepholes: those of `given` that are not None."""
    missing = [n for n in ("x", "input_kernel", "recurrent_kernel") if given[n] is None]
    if missing:
        raise ValueError(f"{missing[0]}: expected an array; got NoneType")
    arrays = Arrays(
        (name, _as_array(name, value)) for name, value in given.items() if value is not None
    )
    x, recurrent_kernel = arrays.x, arrays.recurrent_kernel
    layout = "[T, B, I]" if time_major else "[B, T, I]"
    if x.ndim != 3:
        raise ValueError(
            f"x: expected rank 3, {layout} (time_major={bool(time_major)}); got shape {x.shape}. "
            "Add a batch axis of 1 to a single sequence, or use jax.vmap over further axes"
        )
    if x.shape[2] == 0:
        raise ValueError(f"x: expected {layout} with I at least 1; got I = 0 in {x.shape}")
    if recurrent_kernel.ndim != 2:
        raise ValueError(
            f"recurrent_kernel: expected rank 2, [H, {cell.gates}*H]; "
            f"got shape {recurrent_kernel.shape}"
        )
    hidden, columns = recurrent_kernel.shape
    if hidden == 0:
        raise ValueError(
            f"recurrent_kernel: expected [H, {cell.gates}*H] with H at least 1; "
            f"got {recurrent_kernel.shape}"
        )
    if columns != cell.gates * hidden:
        hint = ""
        if hidden == cell.gates * columns:
            hint = (
                f". PyTorch's weight_hh is [{cell.gates}*H, H]: "
                "jax_persistent.weights.from_pytorch turns and orders its arrays"
            )
        raise ValueError(
            f"recurrent_kernel: expected [H, {cell.gates}*H] = {(hidden, cell.gates * hidden)} for "
            f"{_described(cell)}; got shape {recurrent_kernel.shape}{hint}"
        )
    expected = {
        "input_kernel": ((x.shape[2], columns), f"[I, {cell.gates}*H]"),
        "bias": ((columns,), f"[{cell.gates}*H]"),
        "recurrent_bias": ((columns,), f"[{cell.gates}*H]"),
        "peephole": ((3 * hidden,), "[3*H]"),
    }
    for name, (shape, letters) in expected.items():
        array = arrays.get(name)
        if array is not None and array.shape != shape:
            is_state = name == "bias" and array.ndim > 1
            hint = ". A state is passed as initial_state" if is_state else ""
            raise ValueError(
                f"{name}: expected {letters} = {shape} (I = {x.shape[2]} from x, H = {hidden} from "
                f"recurrent_kernel); got shape {array.shape}{hint}"
            )
    if x.dtype.name not in DTYPES:
        raise ValueError(f"x: expected dtype {', '.join(DTYPES)}; got {x.dtype.name}")
    for name, array in arrays.items():
        check_dtype(name, array, x)
    check_packed(arrays)
    return arrays


def check_packed(arrays: Arrays) -> None:
    """Packed kernels come in pairs, of one machine, with the panels that they say."""
    kernels = {name: arrays[name] for name in ("input_kernel", "recurrent_kernel")}
    packed = {n: k for n, k in kernels.items() if isinstance(k, PackedKernel)}
    if not packed:
        return
    for name, kernel in kernels.items():
        if name not in packed:
            other = next(iter(packed))
            raise ValueError(
                f"{name}: expected a packed kernel, as {other} is; got an array. Pack both: "
                "input_kernel, recurrent_kernel = jax_persistent.pack(cell, (.., ..))"
            )
        if kernel.panels.shape != kernel.panels_shape:
            raise ValueError(
                f"{name}: expected panels {kernel.panels_shape}, as jax_persistent.pack makes them "
                f"of {kernel.shape}; got {kernel.panels.shape}. Use jax.vmap over further axes"
            )
    lanes = [kernel.lanes for kernel in packed.values()]
    if lanes[0] != lanes[1]:
        raise ValueError(
            "recurrent_kernel: expected to be packed on the machine that input_kernel was packed "
            f"on, for vectors of {lanes[0]} units; got {lanes[1]}. Pack both where they are used"
        )


def check_unpacked(arrays: Arrays, cell: str) -> None:
    """Raises where a cell that runs as a scan is given packed kernels."""
    for name in ("input_kernel", "recurrent_kernel"):
        if isinstance(arrays[name], PackedKernel):
            raise ValueError(
                f"{name}: expected an array, as {cell} is no cell that reads packed kernels; got a "
                "packed one. Pass the kernel itself"
            )


def check_state(
    argument: str, cell: Cell, given: Any, x: Array, batch: int, hidden: int
) -> tuple[Array, ...]:
    """Initial or reset states as a tuple, one [B, H] a state, h first."""
    names = tuple(f"{state}0" for state in cell.states)
    is_sequence = isinstance(given, (tuple, list))
    got = type(given).__name__ + (f" of {len(given)}" if is_sequence else "")
    if len(names) == 1 and is_sequence:
        raise ValueError(
            f"{argument}: expected one array {names[0]} [B, H] for {_described(cell)}; got a {got}"
        )
    if len(names) > 1 and not (is_sequence and len(given) == len(names)):
        raise ValueError(
            f"{argument}: expected a tuple ({', '.join(names)}) of [B, H] arrays for "
            f"{_described(cell)}; got {'a ' if is_sequence else ''}{got}"
        )
    states = []
    for name, value in zip(names, given if is_sequence else (given,), strict=True):
        state = _as_array(f"{argument} {name}", value)
        if state.shape != (batch, hidden):
            raise ValueError(
                f"{argument} {name}: expected [B, H] = {(batch, hidden)}; got shape {state.shape}"
            )
        check_dtype(f"{argument} {name}", state, x)
        states.append(state)
    return tuple(states)


def check_lengths(lengths: Any, batch: int, steps: int) -> Array:
    """Lengths as int32 [B]. Known values outside 0..T raise; traced ones are clamped into it."""
    lengths = read_lengths("lengths", lengths)
    array = _as_array("lengths", lengths)
    if array.shape != (batch,):
        raise ValueError(f"lengths: expected [B] = {(batch,)}; got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"lengths: expected an integer dtype (int32); got {array.dtype.name}")
    check_range("lengths", lengths, steps)
    # T need not fit a narrow type, nor a wide type's values an int32; and T may be a symbol.
    wide = array if array.dtype.itemsize >= 4 else array.astype(jnp.int32)
    return jnp.clip(wide, 0, jnp.asarray(steps, wide.dtype)).astype(jnp.int32)


def check_range(name: str, lengths: Any, steps: int) -> None:
    """Raises where the values of lengths are known, and one is outside 0..T."""
    # Under a trace an array made of them is a tracer even where what was given has values.
    known = _known(lengths)
    if known is None:
        return
    too_long = False if is_symbolic_dim(steps) else known > steps
    wrong = np.argwhere((known < 0) | too_long)
    if len(wrong):
        first = tuple(map(int, wrong[0]))
        raise ValueError(
            f"{name}: expected values in 0..T = 0..{steps}; got {name}{list(first)} = "
            f"{known[first]}" + (f" and {len(wrong) - 1} more outside" if len(wrong) > 1 else "")
        )


def read_lengths(name: str, value: Any) -> Any:
    """A list, a tuple or a number as an array; anything else as it is.

    The array is numpy's, whose values are known under a trace too, unless one of them is traced.
    """
    if not isinstance(value, (list, tuple, int)):
        return value
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    try:
        # numpy would take an empty list for floats.
        return jnp.asarray(value) if traced else np.asarray(value, None if value else np.int32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected an array of integers; got {value!r}") from error


def check_resets(resets: Any, batch: int, steps: int, time_major: bool) -> Array:
    array = _as_array("resets", resets)
    shape, letters = ((steps, batch), "[T, B]") if time_major else ((batch, steps), "[B, T]")
    if array.shape != shape:
        raise ValueError(
            f"resets: expected {letters} = {shape} (time_major={bool(time_major)}); "
            f"got shape {array.shape}"
        )
    if array.dtype != jnp.bool_:
        raise ValueError(
            f"resets: expected dtype bool; got {array.dtype.name}. Compare it first: resets != 0"
        )
    return array


def check_dtype(name: str, array: Array | PackedKernel, x: Array) -> None:
    if array.dtype != x.dtype and isinstance(array, PackedKernel):
        raise ValueError(
            f"{name}: expected {x.dtype.name}, the dtype of x; got a kernel packed as "
            f"{array.dtype.name}. Pack kernel.astype({x.dtype.name!r}), or cast x"
        )
    if array.dtype != x.dtype:
        raise ValueError(
            f"{name}: expected {x.dtype.name}, the dtype of x; got {array.dtype.name}. "
            f"Cast it with .astype({x.dtype.name!r}), or cast x"
        )


def _described(cell: Cell) -> str:
    return f"cell {cell.name!r} ({cell.gates} gates)"


def _known(value: Any) -> np.ndarray | None:
    """The values of what was given, or None if a trace or another process has them."""
    if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def _as_array(name: str, value: Any) -> Any:
    if isinstance(value, PackedKernel):
        if name in ("input_kernel", "recurrent_kernel"):
            return value
        raise ValueError(f"{name}: expected an array; got a packed kernel")
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected an array of numbers; got {_kind(value)}") from error


def _kind(value: Any) -> str:
    return f"{value.dtype.name}" if isinstance(value, np.ndarray) else type(value).__name__
