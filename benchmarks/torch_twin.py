# SPDX-License-Identifier: Apache-2.0
"""A flax model of the examples in PyTorch: parameters that move both ways, and equal training.

The same initial parameters, batches in the same order, loss, optimiser and schedule; the trained
parameters go back into the JAX model, so that one decoder serves both. Only the random numbers of
dropout differ.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.machine import RESULTS
from examples.common.loop import Scheduled
from examples.common.step import learning_rate

GATES = "ifgo"


class Twin(nn.Module):
    """Base of such models."""

    def matches(self, params: Any) -> list[tuple[Tensor, np.ndarray]]:
        """Each parameter beside its twin in the JAX model's tree, as views of one shape."""
        raise NotImplementedError

    @torch.no_grad()
    def load_flax(self, params: Any) -> None:
        """Takes over the JAX model's parameters. Flax has one bias a gate: the other stays zero."""
        for torch_parameter, flax_value in self.matches(params):
            torch_parameter.copy_(torch.from_numpy(np.array(flax_value)))
        for layer in self.modules():
            if isinstance(layer, nn.LSTM):
                for name, parameter in layer.named_parameters():
                    if name.startswith("bias_ih"):
                        parameter.zero_().requires_grad_(False)

    @torch.no_grad()
    def store_flax(self, params: Any) -> Any:
        """The JAX model's tree (a copy of `params`) with this model's parameters."""
        params = jax.tree.map(lambda leaf: np.array(leaf), params)
        for torch_parameter, flax_value in self.matches(params):
            flax_value[...] = torch_parameter.detach().numpy()
        return params


def lstm_matches(
    layer: nn.LSTM, suffix: str, cell: Mapping[str, Any]
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """One direction of a layer, `l0` or `l0_reverse`, beside an OptimizedLSTMCell's parameters."""
    for part, name, leaf in (
        ("i", "weight_ih", "kernel"),
        ("h", "weight_hh", "kernel"),
        ("h", "bias_hh", "bias"),
    ):
        chunks = getattr(layer, f"{name}_{suffix}").chunk(len(GATES))
        for gate, chunk in zip(GATES, chunks, strict=True):
            yield chunk, np.asarray(cell[part + gate][leaf]).T


def train(
    model: Twin,
    params: Any,
    loss_of: Callable[[Any], Tensor],
    batches: Any,
    evaluate: Callable[[Any], dict[str, float]],
    settings: Scheduled,
) -> tuple[Any, dict[str, dict[int, float]], list[float]]:
    """Trains from the JAX model's initial parameters on `batches.at(step)`.

    Returns the trained tree, what `evaluate` said of it by measure and step, and seconds by step.
    """
    torch.manual_seed(settings.seed)
    params = jax.tree.map(np.asarray, params)
    model.load_flax(params)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, weight_decay=settings.weight_decay)
    rate = learning_rate(settings)
    measured: dict[str, dict[int, float]] = {}
    seconds = []
    progress = tqdm(range(settings.steps), desc="training (PyTorch)", unit="step")
    for step in progress:
        batch = batches.at(step)
        began = time.perf_counter()
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
            found = evaluate(model.store_flax(params))
            for name, value in found.items():
                measured.setdefault(name, {})[step + 1] = value
            tqdm.write(f"step {step + 1}: {found}")
    return model.store_flax(params), measured, seconds


def save(name: str, result: Mapping[str, Any], settings: Any) -> Path:
    """Writes the results file, with what it was measured with."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-pytorch.json"
    conditions = {
        "versions": {"torch": torch.__version__, "jax": jax.__version__},
        "machine": platform.processor() or platform.machine(),
        "settings": dataclasses.asdict(settings),
    }
    path.write_text(json.dumps({**result, **conditions}, indent=2) + "\n")
    return path
