# SPDX-License-Identifier: Apache-2.0
"""The public function `explain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jax_persistent import notices
from jax_persistent.backends import registry
from jax_persistent.explaining.calls import module_call, traced
from jax_persistent.explaining.explanation import Explanation, name_of
from jax_persistent.explaining.steps import StepCall, as_step
from jax_persistent.explaining.walk import recurrences


def explain(
    target: Callable[..., Any],
    *args: Any,
    device: jax.Device | str | None = None,
    **kwargs: Any,
) -> Explanation:
    """Says which recurrences of a call run on a kernel, where the weights live, what runs as a
    scan, and why; without running it.

        >>> print(jp.explain(loss, params, x))                  # a function
        >>> print(jp.explain(jax.grad(loss), params, x))        # and its gradient
        >>> print(jp.explain(model, jax.random.key(0), x))      # a linen module
        >>> print(jp.explain(model, x))                         # an nnx module
        >>> print(jp.explain(step, carry, xs))                  # a step of `jp.scan`

    The call is traced, under whatever transformations it contains, and its recurrences are looked
    up in what was traced. A function is taken for a step of `jp.scan` if `target(init, x)`, with
    the first of xs, returns a pair whose first part has the tree and the shapes of init, and has no
    recurrence in it. `jp.explain(jp.scan, step, carry, xs)` leaves no doubt.

    Args:
      target: a function; a linen module; an nnx module, or anything else that is called; a step.
      *args, **kwargs: of the call. Arrays may be `jax.ShapeDtypeStruct`s, and what is no array is
        passed on as it is. Those of a linen module are of its `apply`: its variables, or a key to
        make some with, then inputs. Those of a step are `jp.scan`'s: init, xs, length, lengths,
        resets, reverse.
      device: as for `jp.plan`: a device, a platform's name, or a GPU architecture such as "sm_90";
        the default device if not given.

    Returns:
      The explanation, of which `recurrences` are for programs to read.

    Raises:
      ValueError: the device is none.
      NotImplementedError: `backend="native"` in the call, and there is no kernel; at the earliest,
        as when the call is traced.
      Whatever the call raises while it is traced.
    """
    device = jax.default_backend() if device is None else device
    registry.named(device)  # raises for what is none
    call = module_call(target, args, kwargs)
    if call is not None:
        return _of_call(*call, device)
    step = as_step(target, args, kwargs)
    if isinstance(step, StepCall) and not step.has_recurrences:
        return step.explained(device)
    try:
        return _of_call(target, args, kwargs, device)
    except Exception as error:
        if isinstance(step, StepCall):
            return step.explained(device)
        error.add_note(f"jax_persistent.explain: it is no step of jp.scan either: {step}")
        raise


def _of_call(
    function: Callable[..., Any], args: Any, kwargs: Any, device: jax.Device | str
) -> Explanation:
    with notices.heard() as said:
        closed, arrays = traced(function, args, kwargs)
    devices = {d for a in arrays if isinstance(a, jax.Array) for d in a.sharding.device_set}
    return Explanation(
        name_of(device), recurrences(closed, device), tuple(said), max(len(devices), 1)
    )
