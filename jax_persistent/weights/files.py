# SPDX-License-Identifier: Apache-2.0
"""Every layout as named arrays, as a file has it, to and from weights [layer][direction]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jax_persistent.weights import safetensors
from jax_persistent.weights.arrays import Layers, Weights, named
from jax_persistent.weights.cudnn import from_cudnn, to_cudnn
from jax_persistent.weights.equinox import from_equinox, to_equinox
from jax_persistent.weights.flashrnn import from_flashrnn, to_flashrnn
from jax_persistent.weights.flax import from_linen, from_nnx, to_linen, to_nnx
from jax_persistent.weights.haiku import from_haiku, to_haiku
from jax_persistent.weights.haste import from_haste, to_haste
from jax_persistent.weights.keras import from_keras, to_keras
from jax_persistent.weights.onnx import from_onnx, to_onnx
from jax_persistent.weights.pytorch import from_pytorch, to_pytorch

Tensors = dict[str, np.ndarray]

_WAYS = ("forward", "backward")
_KERAS = ("kernel", "recurrent_kernel", "bias")
_CORE = "core"  # of Haiku: its names in a file are those inside of it


def convert(
    source: str | Path, target: str | Path, given: str, wanted: str, prefix: str = "", **sizes: Any
) -> list[str]:
    """Reads a file in one layout and writes another one; returns the names that are in it.

    Args:
      source, target: paths of safetensors files.
      given, wanted: of `LAYOUTS`.
      prefix: what the names of interest begin with in `source`; those in `target` have none.
      **sizes: of a cuDNN vector, which does not say them: as for `from_cudnn`.

    Raises:
      ValueError: the file is another, or the layout has no place for what is in it.
    """
    tensors = safetensors.load(source)
    inside = {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}
    if not inside:
        raise ValueError(
            f"{source}: expected names that begin with {prefix!r}; got {list(tensors)}"
        )
    try:
        layers = LAYOUTS[given][0](inside, **sizes)
    except ValueError as error:
        raise ValueError(f"{source}, read as {given}: {error}") from error
    try:
        written = _written(layers, wanted, _resets_after(given, inside))
    except ValueError as error:
        raise ValueError(f"{target}, written as {wanted}: {error}") from error
    safetensors.save(target, written)
    return list(written)


def _resets_after(layout: str, tensors: Mapping[str, Any]) -> bool | None:
    """Whether a GRU of these arrays resets its state after the product; None if they don't say."""
    if layout == "keras":
        biases = [array for name, array in tensors.items() if name.rpartition(".")[2] == "bias"]
        return np.ndim(biases[0]) == 2 if biases else None
    return None if layout in ("jax_persistent", "onnx") else layout != "haiku"


def _written(layers: Layers, layout: str, after: bool | None) -> Tensors:
    """Layers in a layout; ValueError if its GRU is another function of the same arrays."""
    write = LAYOUTS[layout][1]
    hidden, columns = np.shape(layers[0][0]["recurrent_kernel"])
    if columns != 3 * hidden or after is None:
        return write(layers)
    if layout == "keras":
        return _write_keras(layers, reset_after=after)
    written = write(layers)
    if _resets_after(layout, written) not in (None, after):
        words = ("after", "before") if after else ("before", "after")
        raise ValueError(
            "weights: this GRU resets its state {} the product, and that of the layout {} it; "
            "expected the same".format(*words)
        )
    return written


def _read_common(tensors: Mapping[str, Any]) -> Layers:
    layers: list[list[Weights]] = []
    while True:
        ways = [_inside(tensors, f"layers.{len(layers)}.{way}.") for way in _WAYS]
        if not ways[0]:
            break
        layers.append([way for way in ways if way])
    if not layers:
        raise ValueError("layers.0.forward.input_kernel: expected an array of this name")
    return layers


def _write_common(layers: Layers) -> Tensors:
    return {
        f"layers.{n}.{way}.{name}": np.asarray(array)
        for n, layer in enumerate(layers)
        for way, weights in zip(_WAYS, layer, strict=False)
        for name, array in weights.items()
    }


def _read_keras(tensors: Mapping[str, Any]) -> Layers:
    ways = [found for way in _WAYS if (found := _inside(tensors, f"{way}."))] or [dict(tensors)]
    arrays = [named(way, name) for way in ways for name in _KERAS if name in way or name != "bias"]
    return [from_keras(arrays)]


def _write_keras(layers: Layers, reset_after: bool = True) -> Tensors:
    (layer,) = _single("Keras", layers)
    prefixes = [f"{way}." for way in _WAYS] if len(layer) > 1 else [""]
    return {
        f"{prefix}{name}": array
        for prefix, weights in zip(prefixes, layer, strict=True)
        for name, array in zip(_KERAS, to_keras([weights], reset_after), strict=False)
    }


def _read_onnx(tensors: Mapping[str, Any]) -> Layers:
    arrays = (named(tensors, "W"), named(tensors, "R"), tensors.get("B"), tensors.get("P"))
    return [from_onnx(*arrays)]


def _read_equinox(tensors: Mapping[str, Any]) -> Layers:
    arrays = {name: named(tensors, name) for name in ("weight_ih", "weight_hh")}
    biases = {name: tensors.get(name) for name in ("bias", "bias_n")}
    return [[from_equinox(SimpleNamespace(**arrays, **biases))]]


def _read_haiku(tensors: Mapping[str, Any]) -> Layers:
    inside = {name.replace(".", "/"): array for name, array in tensors.items()}
    return [[from_haiku({_CORE: inside}, _CORE)]]


def _write_haiku(layers: Layers) -> Tensors:
    tree = to_haiku(_only("a Haiku core", layers), _CORE)
    flat = {f"{module}/{name}": a for module, inside in tree.items() for name, a in inside.items()}
    return {name.removeprefix(f"{_CORE}/"): array for name, array in flat.items()}


def _read_flashrnn(tensors: Mapping[str, Any]) -> Layers:
    return [[from_flashrnn(*(named(tensors, name) for name in ("W", "R", "b")))]]


def _tree(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Names such as "ii.kernel" or "ii/kernel", as a tree."""
    tree: dict[str, dict[str, Any]] = {}
    for name, array in tensors.items():
        *outer, leaf = name.replace("/", ".").split(".")
        tree.setdefault(".".join(outer), {})[leaf] = array
    return tree


def _flat(tree: Mapping[str, Mapping[str, np.ndarray]]) -> Tensors:
    return {f"{name}.{leaf}": a for name, leaves in tree.items() for leaf, a in leaves.items()}


def _inside(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}


def _single(layout: str, layers: Layers, directions: int = 2) -> Layers:
    if len(layers) != 1 or len(layers[0]) > directions:
        most = "one layer" if directions == 2 else "one direction of one layer"
        got = f"{len(layers)} layers of {len(layers[0])} directions"
        raise ValueError(f"weights: {layout} holds {most}; got {got}")
    return layers


def _only(layout: str, layers: Layers) -> Weights:
    return _single(layout, layers, directions=1)[0][0]


# How to read a layout's named arrays, and how to write them.
LAYOUTS: dict[str, tuple[Callable[..., Layers], Callable[[Layers], Tensors]]] = {
    "jax_persistent": (_read_common, _write_common),
    "pytorch": (from_pytorch, to_pytorch),
    "keras": (_read_keras, _write_keras),
    "onnx": (_read_onnx, lambda layers: to_onnx(_single("an ONNX node", layers)[0])),
    "cudnn": (
        lambda tensors, **sizes: from_cudnn(named(tensors, "weights"), **sizes),
        lambda layers: {"weights": to_cudnn(layers)},
    ),
    "equinox": (
        _read_equinox,
        lambda layers: to_equinox(_only("an Equinox cell", layers)),
    ),
    "haiku": (_read_haiku, _write_haiku),
    "haste": (
        lambda tensors: [[from_haste(tensors)]],
        lambda layers: to_haste(_only("Haste", layers)),
    ),
    "flashrnn": (_read_flashrnn, lambda layers: to_flashrnn(_only("FlashRNN", layers))),
    "linen": (
        lambda tensors: [[from_linen(_tree(tensors))]],
        lambda layers: _flat(to_linen(_only("a linen cell", layers))),
    ),
    "nnx": (
        lambda tensors: [[from_nnx(_tree(tensors))]],
        lambda layers: _flat(to_nnx(_only("an nnx cell", layers))),
    ),
}
