"""What a recurrence is (static, hashable) and what it is given (arrays): types and validation.

Every check of a caller's arguments is here; what passes is valid for every backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from jax_persistent.ops.cells import CELLS, Cell

BACKENDS = (None, "native", "reference")
# jax's matmul precisions that tf32 satisfies, as it does on a GPU for jax's own products.
_AT_MOST_TF32 = (
    "default",
    "fastest",
    "high",
    "bfloat16",
    "tensorfloat32",
    "BF16_BF16_F32",
    "TF32_TF32_F32",
)
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Spec:
    """The static half of a recurrence: hashable, a jit key and a primitive's parameter."""

    cell: Cell
    reverse: bool = False
    time_major: bool = False
    backend: str | None = None
    tf32: bool = False  # float32 products may be rounded to it, where the hardware has it

    @property
    def time_axis(self) -> int:
        """Position of T in one problem's sequences."""
        return 0 if self.time_major else 1


class Problem(NamedTuple):
    """Operands of one recurrence; sequences are [T, B, F] when time-major, else [B, T, F]."""

    x: Array  # [T, B, I]
    input_kernel: Array  # [I, G*H]
    bias: Array | None  # [G*H]
    recurrent_kernel: Array  # [H, G*H]
    recurrent_bias: Array | None  # [G*H], only where it can't be part of the other
    lengths: Array  # [B] int32, within 0..T
    initial: tuple[Array, ...]  # one [B, H] a state


class Projected(NamedTuple):
    """The same with what the inputs come to in their place."""

    gates_x: Array  # [T, B, G*H] x W + b
    recurrent_kernel: Array
    recurrent_bias: Array | None
    lengths: Array
    initial: tuple[Array, ...]


class Result(NamedTuple):
    outputs: Array  # [T, B, H]
    final: tuple[Array, ...]  # one [B, H] a state
    saved: Array | None  # [T, B, S*H], what the backward pass reads; None if nobody does


class Tangent(NamedTuple):
    """Operands of the linearised recurrence; linear in the fields named d_*."""

    x: Array | None  # None with the tangents of the weights
    input_kernel: Array | None  # None with d_x
    recurrent_kernel: Array
    lengths: Array
    initial: tuple[Array, ...]
    outputs: Array
    saved: Array | None
    d_x: Array | None  # None where the inputs are constant
    d_input_kernel: Array | None  # None where all weights are; and so are the three after it
    d_bias: Array | None
    d_recurrent_kernel: Array | None
    d_recurrent_bias: Array | None
    d_initial: tuple[Array, ...]


class Backward(NamedTuple):
    """Operands of the backward pass; linear in the fields named d_*."""

    x: Array | None  # None where nobody wants the gradients of the weights
    input_kernel: Array | None  # None where nobody wants d_x
    recurrent_kernel: Array
    lengths: Array
    initial: tuple[Array, ...]
    outputs: Array
    saved: Array | None
    d_outputs: Array
    d_final: tuple[Array, ...]


class Gradients(NamedTuple):
    d_x: Array | None  # [T, B, I]
    d_input_kernel: Array | None
    d_bias: Array | None
    d_recurrent_kernel: Array | None
    d_recurrent_bias: Array | None
    d_initial: tuple[Array, ...]


class BackwardSteps(NamedTuple):
    """Operands of the part of the backward pass that goes from step to step."""

    input_kernel: Array | None  # as in Backward
    recurrent_kernel: Array
    lengths: Array
    initial: tuple[Array, ...]
    outputs: Array
    saved: Array | None
    d_outputs: Array
    d_final: tuple[Array, ...]


class StepGradients(NamedTuple):
    d_x: Array | None  # [T, B, I]
    d_gates_x: Array  # [T, B, G*H]
    d_product: Array | None  # [T, B, G*H] of the recurrent product, where it differs from d_gates_x
    d_initial: tuple[Array, ...]


def elman_cell(activation: str) -> Cell:
    """The Elman cell with this activation; ValueError for one there is no cell for."""
    name = f"elman_{activation}"
    if name not in CELLS:
        known = ", ".join(repr(n.removeprefix("elman_")) for n in CELLS if n.startswith("elman_"))
        raise ValueError(f"activation: expected one of {known}; got {activation!r}")
    return CELLS[name]


def tf32_is_asked_for() -> bool:
    """Whether the user asks for less than float32, as with `jax.default_matmul_precision`."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return precision in _AT_MOST_TF32


def check_flags(reverse: Any, time_major: Any, backend: Any) -> None:
    if backend not in BACKENDS:
        raise ValueError(
            f"backend: expected None (choose), 'native' or 'reference'; got {backend!r}"
        )
    for name, value in (("reverse", reverse), ("time_major", time_major)):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name}: expected a Python bool; got {value!r}")


def check_operands(
    cell: Cell,
    x: Any,
    input_kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    recurrent_bias: Any,
    time_major: bool,
) -> dict[str, Any]:
    """Checks the arrays that every call has against each other.

    Returns them as jax arrays by argument name, None where none was given. Raises ValueError naming
    the argument, what was expected and what was given.
    """
    arrays = {
        name: None if value is None else _as_array(name, value)
        for name, value in (
            ("x", x),
            ("input_kernel", input_kernel),
            ("recurrent_kernel", recurrent_kernel),
            ("bias", bias),
            ("recurrent_bias", recurrent_bias),
        )
    }
    x, recurrent_kernel = arrays["x"], arrays["recurrent_kernel"]
    for name in ("x", "input_kernel", "recurrent_kernel"):
        if arrays[name] is None:
            raise ValueError(f"{name}: expected an array; got None")
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
        raise ValueError(
            f"recurrent_kernel: expected [H, {cell.gates}*H] = {(hidden, cell.gates * hidden)} for "
            f"{_described(cell)}; got shape {recurrent_kernel.shape}"
        )
    expected = {
        "input_kernel": ((x.shape[2], columns), f"[I, {cell.gates}*H]"),
        "bias": ((columns,), f"[{cell.gates}*H]"),
        "recurrent_bias": ((columns,), f"[{cell.gates}*H]"),
    }
    for name, (shape, letters) in expected.items():
        array = arrays[name]
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{name}: expected {letters} = {shape} (I = {x.shape[2]} from x, H = {hidden} from "
                f"recurrent_kernel); got shape {array.shape}"
            )
    if x.dtype.name not in DTYPES:
        raise ValueError(f"x: expected dtype {', '.join(DTYPES)}; got {x.dtype.name}")
    for name, array in arrays.items():
        if array is not None:
            check_dtype(name, array, x)
    return arrays


def check_initial_state(
    cell: Cell, initial_state: Any, x: Array, batch: int, hidden: int
) -> tuple[Array, ...]:
    """The initial states as a tuple, zeros where none were given."""
    if initial_state is None:
        return tuple(jnp.zeros((batch, hidden), x.dtype) for _ in cell.states)
    names = tuple(f"{state}0" for state in cell.states)
    if len(names) == 1:
        given: tuple[Any, ...] = (initial_state,)
        if isinstance(initial_state, (tuple, list)):
            raise ValueError(
                f"initial_state: expected one array {names[0]} [B, H] for {_described(cell)}; "
                f"got a {type(initial_state).__name__} of {len(initial_state)}"
            )
    else:
        if not isinstance(initial_state, (tuple, list)) or len(initial_state) != len(names):
            got = (
                f"a {type(initial_state).__name__} of {len(initial_state)}"
                if isinstance(initial_state, (tuple, list))
                else f"{type(initial_state).__name__}"
            )
            raise ValueError(
                f"initial_state: expected a tuple ({', '.join(names)}) of [B, H] arrays for "
                f"{_described(cell)}; got {got}"
            )
        given = tuple(initial_state)
    states = []
    for name, value in zip(names, given, strict=True):
        state = _as_array(f"initial_state {name}", value)
        if state.shape != (batch, hidden):
            raise ValueError(
                f"initial_state {name}: expected [B, H] = {(batch, hidden)}; "
                f"got shape {state.shape}"
            )
        check_dtype(f"initial_state {name}", state, x)
        states.append(state)
    return tuple(states)


def check_lengths(lengths: Any, batch: int, steps: int) -> Array:
    """Lengths as int32 [B]. Concrete values outside 0..T raise; traced ones are clamped into it."""
    if lengths is None:
        return jnp.full((batch,), steps, jnp.int32)
    lengths = read_lengths("lengths", lengths)
    array = _as_array("lengths", lengths)
    if array.shape != (batch,):
        raise ValueError(f"lengths: expected [B] = {(batch,)}; got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"lengths: expected an integer dtype (int32); got {array.dtype.name}")
    # Under a trace `array` is a tracer even where what was given has values.
    known = lengths if isinstance(lengths, (np.ndarray, Array)) else array
    if not isinstance(known, jax.core.Tracer):
        values = np.asarray(known)
        too_long = False if is_symbolic_dim(steps) else values > steps
        wrong = np.flatnonzero((values < 0) | too_long)
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(
                f"lengths: expected values in 0..T = 0..{steps}; got lengths[{row}] = {values[row]}"
                + (f" and {wrong.size - 1} more outside" if wrong.size > 1 else "")
            )
    # As wide as T, which may be a symbol that can't be compared; only then may they be narrowed.
    wide = array if array.dtype.itemsize >= 4 else array.astype(jnp.int32)
    return jnp.clip(wide, 0, jnp.asarray(steps, wide.dtype)).astype(jnp.int32)


def read_lengths(name: str, value: Any) -> Any:
    """A list, a tuple or a number as an array; anything else as it is.

    An array of numpy's, whose values are known under a trace too, unless one of them is traced.
    """
    if not isinstance(value, (list, tuple, int)):
        return value
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    try:
        # numpy would take an empty list for floats.
        return jnp.asarray(value) if traced else np.asarray(value, None if value else np.int32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of integers; got {value!r}") from error


def check_dtype(name: str, array: Array, x: Array) -> None:
    if array.dtype != x.dtype:
        raise ValueError(
            f"{name}: expected {x.dtype.name}, the dtype of x; got {array.dtype.name}. "
            f"Cast it with .astype({x.dtype.name!r}), or cast x"
        )


def _described(cell: Cell) -> str:
    return f"cell {cell.name!r} ({cell.gates} gates)"


def _as_array(name: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array; got {type(value).__name__}") from error
