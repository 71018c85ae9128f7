# SPDX-License-Identifier: Apache-2.0
"""jax's private parts that we use: each probed when it is first needed, with what happens without.

No release of jax is refused. Where one lacks something, the feature that needs it has its fallback,
with one warning; the rest works as ever.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

from jax_persistent import notices


def _private(name: str) -> Any:
    """A module of jax's own; an empty one where this jax has none of the name."""
    try:
        return importlib.import_module(f"jax._src.{name}")
    except ImportError:
        return ModuleType(f"jax._src.{name}")


config = _private("config")
core = _private("core")
mlir = _private("interpreters.mlir")
sharding_rules = _private("custom_partitioning_sharding_rule")
source_info_util = _private("source_info_util")
xla_bridge = _private("xla_bridge")
xla_client = getattr(_private("lib"), "xla_client", ModuleType("xla_client"))


class Feature(NamedTuple):
    """What needs private parts of jax."""

    name: str
    fallback: str  # what happens where they are lacking
    probe: Callable[[], object]  # uses them, or raises


@cache
def lacking(feature: str) -> str | None:
    """Why this jax can't have a feature, and what happens in its place; None where it can."""
    wanted = _FEATURES[feature]
    try:
        wanted.probe()
    except Exception as error:  # whatever another jax's parts do
        what = f"{type(error).__name__}: {error}"
        return f"jax {jax.__version__} lacks what {wanted.name} needs ({what}); {wanted.fallback}"
    return None


def has(feature: str) -> bool:
    """Whether this jax can have a feature; if not, users are told, once."""
    reason = lacking(feature)
    if reason is not None:
        notices.warn("jax_persistent on this jax", reason)
    return reason is None


def features() -> Iterator[tuple[str, str]]:
    """Each feature that needs private parts of jax, and "yes", or why this jax can't have it."""
    for key, feature in _FEATURES.items():
        yield feature.name, lacking(key) or "yes"


def report() -> str:
    """What of jax's private parts was found, for `python -m jax_persistent info`."""
    found = dict(features())
    return "; ".join(r for r in found.values() if r != "yes") or f"found, for {', '.join(found)}"


def _need(module: Any, *names: str) -> None:
    for name in names:
        getattr(module, name)


def insert_varying() -> Callable[..., Any]:
    """What gives arrays the varying mesh axes of all of them; jax 0.10.0 has its old name."""
    old: Callable[..., Any] | None = getattr(core, "standard_insert_pvary", None)
    return getattr(core, "auto_insert_reshard", None) or old or core.auto_insert_reshard


def _probe_splitting() -> None:
    _need(xla_client, "HloSharding", "OpSharding", "register_custom_call_partitioner")
    _need(xla_bridge, "register_plugin_callbacks")
    _need(mlir, "aval_to_ir_type", "custom_call", "source_info_to_location")
    _need(sharding_rules, "str_to_sdy_sharding_rule", "sdy_sharding_rule_to_mlir")


def _probe_steps() -> None:
    """What programs/ does to the equations of a step."""
    aval = jax.ShapeDtypeStruct((2, 3), np.dtype(np.float32))
    closed = jax.make_jaxpr(lambda x: jax.nn.sigmoid(x) + 1)(aval)
    jaxpr = closed.jaxpr
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    jaxpr.replace(eqns=list(jaxpr.eqns), debug_info=names)
    bound = jaxpr.eqns[0].replace(params=jaxpr.eqns[0].params)
    bound.primitive.get_bind_params(bound.params)


def _probe_lines() -> None:
    equation = jax.make_jaxpr(lambda x: -x)(0.0).jaxpr.eqns[0]
    source_info_util.summarize(equation.source_info)
    source_info_util.user_frame(equation.source_info.traceback)
    _need(source_info_util, "user_context")


_FEATURES = {
    "splitting": Feature(
        "a kernel under jax.jit over a mesh",
        "such a call runs as a lax.scan. Under jax.shard_map it is a kernel",
        _probe_splitting,
    ),
    "steps": Feature(
        "a kernel of any step function", "jax_persistent.scan is jax.lax.scan", _probe_steps
    ),
    "varying": Feature(
        "check_vma of jax.shard_map",
        "pass check_vma=False to jax.shard_map",
        insert_varying,
    ),
    "unread": Feature(
        "leaving out results that nobody reads",
        "jax.checkpoint keeps what the first run saves",
        lambda: _need(partial_eval, "dce_rules"),
    ),
    "lines": Feature(
        "naming the line of a step's equation", "explanations name none", _probe_lines
    ),
}
