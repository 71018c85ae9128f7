# SPDX-License-Identifier: Apache-2.0
"""Haiku: `dynamic_unroll` and `static_unroll` of any core, persistent; change the import.

Parameters, their names and their initial values are Haiku's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_persistent import notices
from jax_persistent.fallback import NoKernel, check_sequences, kernel_of, kernel_or, loops
from jax_persistent.functions import elman, gru, lstm
from jax_persistent.rehosted import Rehosted, lax_with
from jax_persistent.weights import from_haiku

with notices.needed("haiku", "Haiku"):
    import haiku as hk
    from haiku._src import base, module, recurrent, stateful

__all__ = ["dynamic_unroll", "static_unroll"]

_KERNELS = {
    hk.LSTM: lstm,
    hk.GRU: partial(gru, reset_after=False),
    hk.VanillaRNN: partial(elman, activation="relu"),
}


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
    call = core, input_sequence, initial_state, time_major, reverse, return_all_states
    return kernel_or(partial(_scan_of_calls, unroll=unroll), _SCAN, _on_a_kernel, *call)


def static_unroll(
    core: Any, input_sequence: Any, initial_state: Any, time_major: bool = True
) -> tuple[Any, Any]:
    """`haiku.static_unroll`, in one call for the cores that have a kernel in `dynamic_unroll`."""
    call = core, input_sequence, initial_state, time_major
    return kernel_or(_own_static_unroll, _OWN_CODE, _on_a_kernel, *call)


def _over(scan: Callable[..., Any]) -> Callable[..., Any]:
    """Haiku's dynamic_unroll with this scan in place of `lax.scan`."""
    ours = Rehosted(jax, lax=lax_with(scan))
    names = type("hk", (recurrent.hk,), {"scan": Rehosted(stateful, jax=ours).scan})
    return Rehosted(recurrent, jax=ours, hk=names).dynamic_unroll


_OWN_CODE = "jax_persistent.haiku runs Haiku's own static_unroll"
_SCAN = "jax_persistent.haiku runs a jax_persistent.scan"
_PLAIN = "jax_persistent.haiku runs a lax.scan"
_loops = partial(loops, _PLAIN, "Haiku's unroll", hk.dynamic_unroll, _over)
_scan_of_calls, _own_static_unroll = _loops()[None], hk.static_unroll


def _on_a_kernel(
    core: Any, xs: Any, state: Any, time_major: bool, reverse: bool = False, states: bool = False
) -> Any:
    """(outputs, final state), or NoKernel."""
    if states:
        raise NoKernel("return_all_states asks for what a kernel keeps to itself")
    resets = None
    if type(core) is hk.ResetCore and isinstance(xs, tuple) and len(xs) == 2:
        core, (xs, resets) = core.core, xs
    run = kernel_of(core, _KERNELS)
    if base.param_getter_stack or module.interceptor_stack:
        raise NoKernel("custom getters and interceptors, as of mixed precision, want every call")
    check_sequences(xs, "[T, B, I]")
    core(xs[0] if time_major else xs[:, 0], state)  # creates the parameters, or checks them
    weights = from_haiku(base.current_frame().params, core.module_name)
    how: Any = {"resets": resets, "reverse": reverse, "time_major": time_major}
    start = tuple(state) if run is lstm else state
    y, final = run(jnp.asarray(xs), **weights, **how, initial_state=start)
    return y, hk.LSTMState(*final) if run is lstm else final
