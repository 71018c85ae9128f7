# SPDX-License-Identifier: Apache-2.0
"""The public function: `scan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim
from jax.extend.core import ClosedJaxpr

from jax_persistent import compat, notices
from jax_persistent.ops import validation
from jax_persistent.problem import PackedKernel
from jax_persistent.programs import hoist, jaxprs, primitive
from jax_persistent.programs.rows import Unfit
from jax_persistent.programs.step import Step

_Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(
    f: _Step,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    _split_transpose: bool = False,
    *,
    lengths: Any = None,
    resets: Any = None,
    backend: str | None = None,
) -> tuple[Any, Any]:
    """`jax.lax.scan`, run persistently where the step is a recurrence.

    Means what `jax.lax.scan(f, init, xs, length, reverse, unroll)` means, for every f. Where f's
    step is made of products of the carry with matrices that stay the same, and of operations on
    vectors of features, the whole scan is one kernel that keeps the matrices in the cores' caches;
    its gradient is another; so it is on an NVIDIA GPU where a step has one product and vectors of
    one width. What of a step does not wait for the carry, such as a product with x, is computed for
    all steps at once before. Any other step runs as `lax.scan`; `explain` says what is in the way.

    Args:
      f: a step, (carry, x) -> (carry, y).
      init: the carry before the first step; a pytree of arrays.
      xs: a pytree of arrays [T, ...]; or None, with `length`.
      length: T, where xs has no arrays.
      reverse: run from the last step to the first; ys stay aligned with xs.
      unroll: for `lax.scan`; a kernel needs no unrolling.
      lengths: integers in 0..T, of the shape S that the carry's leaves and ys begin with, such as
        [B]. A step t >= lengths leaves a row's carry as it is, and its ys are zero. Values that are
        known and out of range raise; traced ones are clamped.
      resets: bool [T, *S]. Where true, the carry before that step is zeros, as after the `done`
        flag of an episode. No gradient flows across.
      backend: None chooses; "native" is the kernel or an error saying why it can't be;
        "reference" is `lax.scan`.

    Returns:
      (carry, ys), as `lax.scan` does.

    Raises:
      NotImplementedError: `backend="native"`, and the step has no program; names the equation and
        the line it comes from.
      ValueError: lengths, resets or backend are wrong; those of `lax.scan` for the rest.
    """
    validation.check_flags(backend, reverse=reverse)
    rows = _masks(init, xs, length, lengths, resets)
    if rows is not None:
        f, xs = _masked(f, *rows), (xs, *rows)
    how: dict[str, Any] = {
        "reverse": reverse,
        "unroll": unroll,
        "_split_transpose": _split_transpose,
    }
    if backend == "reference":
        return lax.scan(f, init, xs, length, **how)
    return _run(f, init, xs, length, backend, _inform, how)


def scan_that_tells(
    tell: Callable[[str], None], backend: str | None = None
) -> Callable[..., tuple[Any, Any]]:
    """`scan` with the arguments of `lax.scan`; `tell` gets the reason where it runs as one."""

    def scan(
        f: _Step,
        init: Any,
        xs: Any = None,
        length: int | None = None,
        reverse: bool = False,
        unroll: int | bool = 1,
        **how: Any,
    ) -> tuple[Any, Any]:
        how |= {"reverse": reverse, "unroll": unroll}
        return _run(f, init, xs, length, backend, tell, how)

    return scan


def _inform(reason: str) -> None:
    notices.inform("jax_persistent.scan runs as a lax.scan", reason)


def _run(
    f: _Step,
    init: Any,
    xs: Any,
    length: int | None,
    backend: str | None,
    tell: Callable[[str], None],
    how: dict[str, Any],
) -> tuple[Any, Any]:
    plainly = f, init
    try:
        body = _trace(f, init, xs, length)
        plainly = body.as_traced(f, init)
        traced = _traced(body, bool(how.get("reverse")))
    except Unfit as unfit:
        if backend == "native":
            raise NotImplementedError(
                f"backend='native': {unfit}. Use backend=None or 'reference'"
            ) from None
        reason = str(unfit)
    else:
        return traced.run(backend)
    result = lax.scan(*plainly, xs, length, **how)
    tell(reason)  # after what may raise: an error says more
    return result


def traced(
    f: _Step,
    init: Any,
    xs: Any,
    length: int | None,
    *,
    lengths: Any = None,
    resets: Any = None,
    reverse: bool = False,
) -> Traced:
    """What `scan` runs in place of a `lax.scan`. Raises Unfit where that is left as it is."""
    rows = _masks(init, xs, length, lengths, resets)
    if rows is not None:
        f, xs = _masked(f, *rows), (xs, *rows)
    return _traced(_trace(f, init, xs, length), reverse)


# --- lengths and resets, as further xs


def _masks(
    init: Any, xs: Any, length: int | None, lengths: Any, resets: Any
) -> tuple[Array | None, Array | None] | None:
    """Which rows run, and which are reset, at each step: [T, *S] each."""
    if lengths is None and resets is None:
        return None
    leaves = jax.tree.leaves(xs)
    steps = jnp.shape(leaves[0])[0] if leaves else length
    if steps is None:
        raise ValueError("length: expected an int where xs has no arrays; got None")
    runs = reset = None
    if lengths is not None:
        lengths = validation.read_lengths("lengths", lengths)
        if not jnp.issubdtype(jnp.result_type(lengths), jnp.integer):
            got = jnp.result_type(lengths).name
            raise ValueError(f"lengths: expected an integer dtype (int32); got {got}")
        _check_rows("lengths", jnp.shape(lengths), init)
        validation.check_range("lengths", lengths, steps)
        ends = jnp.asarray(lengths)
        times = jnp.arange(steps, dtype=ends.dtype)
        runs = jnp.expand_dims(times, tuple(range(1, ends.ndim + 1))) < ends[None]
    if resets is not None:
        reset = jnp.asarray(resets)
        if reset.dtype != jnp.bool_:
            raise ValueError(
                f"resets: expected dtype bool; got {reset.dtype.name}. Compare it first: "
                "resets != 0"
            )
        if reset.ndim == 0 or reset.shape[0] != steps:
            raise ValueError(f"resets: expected [T, ...] with T = {steps}; got {reset.shape}")
        _check_rows("resets", reset.shape[1:], init)
    return runs, reset


def _check_rows(name: str, shape: Sequence[int], init: Any) -> None:
    for leaf in jax.tree.leaves(init):
        rows = jnp.shape(leaf)[: len(shape)]
        if rows != tuple(shape):
            raise ValueError(
                f"{name}: expected {rows} for its rows, as an array of the carry has shape "
                f"{jnp.shape(leaf)}; got {tuple(shape)}"
            )


def _where(rows: Array, yes: Any, no: Any) -> Any:
    def choose(a: Any, b: Any) -> Array:
        return jnp.where(jnp.expand_dims(rows, tuple(range(rows.ndim, jnp.ndim(b)))), a, b)

    return jax.tree.map(choose, yes, no)


def _masked(f: _Step, runs: Array | None, resets: Array | None) -> _Step:
    """The step with two more xs: which rows run, and which are reset."""
    del runs, resets

    def step(carry: Any, given: Any) -> tuple[Any, Any]:
        x, runs, reset = given
        zeros = jax.tree.map(jnp.zeros_like, carry)
        start = carry if reset is None else _where(reset, zeros, carry)
        after, y = f(start, x)
        if runs is not None:
            after = _where(runs, after, carry)
            y = _where(runs, y, jax.tree.map(jnp.zeros_like, y))
        return after, y

    return step


# --- a scan as it is traced


@dataclass(frozen=True)
class _Body:
    """A step traced as `lax.scan` traces it, which is once: flax counts what a trace draws."""

    closed: ClosedJaxpr
    init: list[Array]
    xs: list[Array]
    carry_tree: Any
    ys_tree: Any
    steps: int

    def as_traced(self, f: _Step, init: Any) -> tuple[_Step, Any]:
        """A step and its first carry for `lax.scan`, without another trace of f."""
        # What f makes of arrays whose types say more depends on what is left out here.
        arrays = self.init + self.xs
        if compat.runs_without_jit() or not all(map(compat.has_plain_type, arrays)):
            return f, init

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            flat = jaxprs.function_of(self.closed)(*jax.tree.leaves((carry, x)))
            after, y = flat[: len(self.init)], flat[len(self.init) :]
            return jax.tree.unflatten(self.carry_tree, after), jax.tree.unflatten(self.ys_tree, y)

        return step, jax.tree.unflatten(self.carry_tree, self.init)


def _trace(f: _Step, init: Any, xs: Any, length: int | None) -> _Body:
    """Raises Unfit where `lax.scan` would refuse its arguments, and where this jax can't trace."""
    if not compat.has("steps"):
        raise Unfit(compat.lacking("steps") or "")
    init_flat, carry_tree = jax.tree.flatten(init)
    xs_flat, xs_tree = jax.tree.flatten(xs)
    init_flat, xs_flat = list(map(jnp.asarray, init_flat)), list(map(jnp.asarray, xs_flat))
    if any(is_symbolic_dim(size) for a in (*init_flat, *xs_flat) for size in a.shape):
        raise Unfit("a size is a symbol of `jax.export`")
    lengths = {a.shape[0] if a.ndim else None for a in xs_flat} | {length} - {None}
    if len(lengths) != 1 or not isinstance(steps := lengths.pop(), int) or steps < 1:
        raise Unfit("it has no steps, or xs of different lengths")
    trees: list[Any] = []

    def flat(*given: Any) -> list[Any]:
        carry = jax.tree.unflatten(carry_tree, given[: len(init_flat)])
        result = f(carry, jax.tree.unflatten(xs_tree, given[len(init_flat) :]))
        if not (isinstance(result, (tuple, list)) and len(result) == 2):
            raise Unfit("the step returns no pair of carry and y")
        after, after_tree = jax.tree.flatten(result[0])
        y, y_tree = jax.tree.flatten(result[1])
        trees[:] = after_tree, y_tree
        return [*after, *y]

    def aval(array: Array, first: int) -> jax.ShapeDtypeStruct:
        weak = jax.typeof(array).weak_type
        return jax.ShapeDtypeStruct(array.shape[first:], array.dtype, weak_type=weak)

    x_avals = [aval(a, 1) for a in xs_flat]
    changed = True
    while changed:  # once more where the step decides on the dtype of a weakly typed carry
        closed = jax.make_jaxpr(flat)(*(aval(a, 0) for a in init_flat), *x_avals)
        after = jaxprs.avals_of(closed.jaxpr.outvars[: len(init_flat)])
        same = trees[0] == carry_tree and all(
            a.shape == b.shape for a, b in zip(init_flat, after, strict=True)
        )
        changed = False
        for n, (a, b) in enumerate(zip(init_flat, after, strict=True) if same else ()):
            if a.dtype != b.dtype and jax.typeof(a).weak_type and not b.weak_type:
                init_flat[n], changed = lax.convert_element_type(a, b.dtype), True
    if not same or any(a.dtype != b.dtype for a, b in zip(init_flat, after, strict=True)):
        raise Unfit("the step changes the type of the carry")
    return _Body(closed, init_flat, xs_flat, carry_tree, trees[1], steps)


@dataclass(frozen=True)
class Traced:
    step: Step
    recurrence: hoist.Recurrence
    body: _Body
    reverse: bool

    def operands(self, found: hoist.Computed) -> tuple[list[Array], dict[str, Any]]:
        """The operands of `scan_p`, and its parameters that say how they lie."""
        step = self.step
        sizes, first_x = step.sizes(), step.consts + step.carry
        operands, flags, packed = [], [], []
        given = [*found.consts, *found.init, *found.xs]
        for n, (layout, array) in enumerate(zip(step.operand_layouts(), given, strict=True)):
            if isinstance(array, PackedKernel):
                is_matrix = step.row.jaxpr.invars[n].aval.ndim == 2
                if array.gates == 1 and is_matrix and layout.is_of_groups():
                    packed.append((n, array.lanes))
                    array = array.panels
                else:
                    array = array.unpacked()
            plain = layout.plain(jnp.asarray(array), sizes, n >= first_x)
            if step.consts <= n < first_x:
                groups = sizes[0] if step.grouped else 1
                plain = plain.reshape(groups, -1, *step.row.jaxpr.invars[n].aval.shape)
                flags.append((True, True))
            else:
                flags.append(layout.flags())
            operands.append(plain)
        return operands, {"flags": tuple(flags), "packed": tuple(packed)}

    def run(self, backend: str | None) -> tuple[Any, Any]:
        step, body = self.step, self.body
        found = self.recurrence.compute(body.init, body.xs)
        operands, how = self.operands(found)
        how |= {"steps": body.steps, "reverse": self.reverse}
        results = primitive.bind(operands, step=step, backend=backend, **how)
        restored = [
            layout.restored(result, step.sizes(), n >= step.carry)
            for n, (layout, result) in enumerate(zip(step.result_layouts(), results, strict=True))
        ]
        carry, ys = found.finished(restored[: step.carry], restored[step.carry :])
        return jax.tree.unflatten(body.carry_tree, carry), jax.tree.unflatten(body.ys_tree, ys)


_STEPS: WeakValueDictionary[str, Step] = WeakValueDictionary()


def _traced(body: _Body, reverse: bool) -> Traced:
    """Raises Unfit where there is no program."""
    if body.closed.jaxpr.effects:
        raise Unfit("the step has side effects")
    closed = jaxprs.pruned(jaxprs.inlined(body.closed, custom=False))
    found = hoist.recurrence(closed, len(body.init), body.steps, reverse)
    if not found.carry:
        raise Unfit("nothing waits for the carry")
    if any(0 in a.shape for a in jaxprs.avals_of(found.step.jaxpr.invars)):
        raise Unfit("an array is empty")
    step = Step.of(found.step, found.consts, found.carry)
    # The same step traced again is the same program, and is not compiled again.
    text = str((step.consts, step.carry, found.step, [level.axes for level in step.levels]))
    if "custom_" not in text:
        step = _STEPS.setdefault(text, step)
    step.program  # noqa: B018  raises Unfit
    # Later, when the scan is differentiated, its functions' own derivatives are out of reach.
    if step.has_own_derivatives():
        step.backward.backward.program  # noqa: B018
    return Traced(step, found, body, reverse)
