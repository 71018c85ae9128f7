# SPDX-License-Identifier: Apache-2.0
"""Says what of a function or a layer runs on a kernel, and why the rest does not; runs nothing.

    python -m jax_persistent explain lstm --hidden 256 --batch 4 --gradient
    python -m jax_persistent explain PeepholeLSTM --hidden 256
    python -m jax_persistent explain train:loss 'float32[4,128,64]' 'int32[4]'
    python -m jax_persistent explain model:net key 'float32[4,128,64]'

A function or a module is named as module:name, found from the working directory too. Its arguments
are arrays of a dtype and a shape; "key", a key of jax.random; or "none".
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import re
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jax_persistent as jp
from jax_persistent.cli import plan
from jax_persistent.cli.peers import CELLS, library_cell, library_cells
from jax_persistent.cli.report import Refused, Report

HELP = "what runs on a kernel, and why the rest does not"

_ARRAY = re.compile(r"(\w+)\[([\d,\s]*)\]")
_SHORT = {"f": "float", "bf": "bfloat", "i": "int", "u": "uint"}


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", help="module:name, or a cell")
    command.add_argument("arguments", nargs="*", help="float32[4,128,64], f32[4,8], key, none")
    command.add_argument("--gradient", action="store_true", help="of the sum of its float results")
    plan.add_sizes(command)
    plan.add_device(command)
    for action in command._actions:  # sizes are for a cell
        if action.dest == "hidden":
            action.required = False


def run(options: argparse.Namespace) -> Report:
    try:
        function, arguments = _call(options)
        if options.gradient:
            function = gradient_of(function)
        found = jp.explain(function, *arguments, device=options.device)
    except (ImportError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise Refused(f"{options.target}: {error}") from error
    except Exception as error:  # whatever the user's function raises while it is traced
        raise Refused(f"{options.target}: {type(error).__name__}: {error}") from error
    return Report(dataclasses.asdict(found), [str(found)])


def gradient_of(function: Any) -> Any:
    """The gradient of the sum of a function's float results, to its float arguments."""

    def total(*args: Any) -> Any:
        leaves = [a for a in jax.tree.leaves(function(*args)) if _is_float(a)]
        return sum(leaf.astype(jnp.float32).sum() for leaf in leaves)

    def gradient(*args: Any) -> Any:
        floats = [n for n, a in enumerate(args) if all(map(_is_float, jax.tree.leaves(a)))]
        return jax.grad(total, tuple(floats))(*args)

    return gradient


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _call(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    if ":" in options.target:
        return _named(options.target), [_argument(text) for text in options.arguments]
    known = (*CELLS, *library_cells())
    if options.target not in known:
        raise ValueError(f"expected module:name, or one of {', '.join(known)} with --hidden")
    if options.hidden is None or options.arguments:
        raise ValueError("a cell is explained by its sizes, of which --hidden is needed")
    return of_cell(options)


def of_cell(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """A call of a cell over sequences [T, B, I], and the types of its weights and of x."""
    inputs, dtype = options.features or options.hidden, jnp.dtype(options.dtype)
    x = jax.ShapeDtypeStruct((options.steps, options.batch, inputs), dtype)
    if options.target in CELLS:
        function, gates = CELLS[options.target]
        wide = gates * options.hidden
        shapes = [(inputs, wide), (options.hidden, wide), (wide,)]
        weights = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]

        def run(weights: Any, x: Any) -> Any:
            return function(x, *weights, time_major=True)

        return run, [weights, x]
    cell = library_cell(options.target, options.hidden)
    init = partial(cell.init, inputs=inputs, hidden=options.hidden, dtype=dtype)

    def scanned(weights: Any, x: Any) -> Any:
        return jp.scan(partial(cell, weights), cell.start(options.hidden, options.batch, dtype), x)

    return scanned, [jax.eval_shape(init, jax.random.key(0)), x]


def _named(name: str) -> Any:
    module, _, path = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    finally:
        sys.path.pop(0)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"expected a function or a module; got {type(found).__name__}")
    return found


def _argument(text: str) -> Any:
    if text in ("key", "none"):
        return jax.random.key(0) if text == "key" else None
    found = _ARRAY.fullmatch(text)
    if found is None:
        raise ValueError(f"argument: expected float32[4,128,64], key or none; got {text!r}")
    short = re.fullmatch(r"(f|bf|i|u)(\d+)", found[1])
    dtype = f"{_SHORT[short[1]]}{short[2]}" if short else found[1]
    shape = tuple(int(size) for size in found[2].split(",") if size.strip())
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
