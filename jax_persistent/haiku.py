# SPDX-License-Identifier: Apache-2.0
"""Haiku: `dynamic_unroll` and `static_unroll` of any core, persistent; change the import.

Parameters, their names and their initial values are Haiku's own.

Legend: T time steps, B batch, I input features, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_persistent import notices
from jax_persistent.functions import elman, gru, lstm
from jax_persistent.programs.functions import scan_that_tells
from jax_persistent.rehosted import Rehosted, lax_with
from jax_persistent.weights.gates import reordered

try:
    import haiku as hk
    from haiku._src import base, module, recurrent, stateful
except ImportError as error:
    raise notices.missing("haiku", "Haiku", error) from error

__all__ = ["dynamic_unroll", "static_unroll"]


def dynamic_unroll(
    core: Any,
    input_sequence: Any,
    initial_state: Any,
    time_major: bool = True,
    reverse: bool = False,
    return_all_states: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """`haiku.dynamic_unroll`, with its arguments and results, run persistently.

    `LSTM`, `GRU` and `VanillaRNN` over inputs [T, B, I] have kernels of their own, in a `ResetCore`
    too. Any other core, and `return_all_states`, run as `jax_persistent.scan` of the core's own
    calls. The logger "jax_persistent" says why, once a reason: at level WARNING where that is a
    plain `lax.scan`, at level INFO otherwise.
    """
    how: dict[str, Any] = {"time_major": time_major, "reverse": reverse}
    try:
        if return_all_states:
            raise _NoKernel("return_all_states asks for what a kernel keeps to itself")
        return _on_a_kernel(core, input_sequence, initial_state, **how)
    except _NoKernel as reason:
        notices.inform("jax_persistent.haiku runs a jax_persistent.scan", str(reason))
    how |= {"return_all_states": return_all_states, "unroll": unroll}
    return _scan_of_calls(core, input_sequence, initial_state, **how)


def static_unroll(
    core: Any, input_sequence: Any, initial_state: Any, time_major: bool = True
) -> tuple[Any, Any]:
    """`haiku.static_unroll`, with its arguments and results, in one call where there is a kernel.

    Which cores have one, `dynamic_unroll` says. Haiku's own code unrolls all others.
    """
    try:
        return _on_a_kernel(core, input_sequence, initial_state, time_major, reverse=False)
    except _NoKernel as reason:
        notices.inform("jax_persistent.haiku runs Haiku's own static_unroll", str(reason))
    return _own_static_unroll(core, input_sequence, initial_state, time_major)


class _NoKernel(Exception):
    """Raised where the core's own code has to run; says why."""


def _scanned() -> Callable[..., Any]:
    """Haiku's unroll over the calls of any core, with our scan in place of `lax.scan`.

    Haiku's own if this Haiku is made differently.
    """
    warn = partial(notices.warn, "jax_persistent.haiku runs a lax.scan")
    ours = Rehosted(jax, lax=lax_with(scan_that_tells(warn)))
    try:
        names = type("hk", (recurrent.hk,), {"scan": Rehosted(stateful, jax=ours).scan})
        return Rehosted(recurrent, jax=ours, hk=names).dynamic_unroll
    except AttributeError as error:
        warn(f"this Haiku's unroll is another: {error}")
        return hk.dynamic_unroll


_scan_of_calls, _own_static_unroll = _scanned(), hk.static_unroll


def _on_a_kernel(core: Any, xs: Any, state: Any, time_major: bool, reverse: bool) -> Any:
    """(outputs, final state), or _NoKernel."""
    how: dict[str, Any] = {"time_major": time_major, "reverse": reverse}
    if type(core) is hk.ResetCore and isinstance(xs, tuple) and len(xs) == 2:
        core, (xs, how["resets"]) = core.core, xs
    if type(core) not in _KERNELS:
        names = ", ".join(known.__name__ for known in _KERNELS)
        raise _NoKernel(f"{type(core).__name__} has no kernel; {names} have, without subclasses")
    if base.param_getter_stack or module.interceptor_stack:
        raise _NoKernel("custom getters and interceptors, as of mixed precision, want every call")
    if not hasattr(xs, "shape") or len(xs.shape) != 3 or 0 in xs.shape:
        raise _NoKernel("a kernel takes one array [T, B, I] with a step and a row")
    weights = _parameters(core, xs[0] if time_major else xs[:, 0], state)
    try:
        return _KERNELS[type(core)](weights, jnp.asarray(xs), state, core.hidden_size, **how)
    except ValueError as error:  # of shapes and dtypes that a core may be able to take
        raise _NoKernel(str(error)) from error


def _parameters(core: Any, x: Array, state: Any) -> dict[str, Array]:
    """What the core's own call for one step creates or reads; nobody uses what it computes."""
    found: dict[str, Array] = {}

    def record(next_getter: Any, value: Any, context: Any) -> Any:
        value = next_getter(value)
        found[context.full_name.removeprefix(f"{core.module_name}/")] = value
        return value

    with hk.custom_getter(record):
        core(x, state)
    return found


def _lstm(of: dict[str, Array], x: Array, state: Any, hidden: int, **how: Any) -> Any:
    w, b = (reordered(of[name], "igfo", "ifgo") for name in ("linear/w", "linear/b"))
    forget = jnp.repeat(jnp.array([0, 1, 0, 0], x.dtype), hidden)  # as in the core's call
    features = x.shape[-1]
    y, final = lstm(x, w[:features], w[features:], b + forget, tuple(state), **how)
    return y, hk.LSTMState(*final)


def _gru(of: dict[str, Array], x: Array, state: Any, hidden: int, **how: Any) -> Any:
    # The core's z is how much of n to take, and the function's how much of h to keep: 1 - z.
    sign = jnp.repeat(jnp.array([1, -1, 1], x.dtype), hidden)
    w_i, w_h = (reordered(of[n], "zrn", "rzn") * sign[None] for n in ("w_i", "w_h"))
    b = reordered(of["b"], "zrn", "rzn") * sign
    return gru(x, w_i, w_h, b, None, state, reset_after=False, **how)


def _elman(of: dict[str, Array], x: Array, state: Any, hidden: int, **how: Any) -> Any:
    bias = of["linear/b"] + of["linear_1/b"] if "linear_1/b" in of else of["linear/b"]
    return elman(x, of["linear/w"], of["linear_1/w"], bias, state, activation="relu", **how)


_KERNELS = {hk.LSTM: _lstm, hk.GRU: _gru, hk.VanillaRNN: _elman}
