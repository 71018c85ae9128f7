# SPDX-License-Identifier: Apache-2.0
"""Predict each next byte of Wikipedia: LSTM layers, truncated backpropagation, carried state.

A batch is `batch` places of one long text, read on in step: every chunk starts from the state in
which the chunk before it ended, and gradients stop at its start. Run: `python -m examples.charlm`
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from examples.charlm.text import chunks, enwik8, split
from examples.common.download import default_cache
from jax_persistent.linen import RNN

SYMBOLS = 256
EMBEDDING = 64
MEASURED = 500_000  # at most so many bytes of the test part, to be quick
YARDSTICKS = {  # bits a character
    "each character by its frequency alone": 5.11,
    "bzip2": 2.25,
    "xz": 2.17,
    "GRU, published (arXiv 2108.00527), far larger and trained far longer": 1.53,
    "LSTM, published (same), far larger and trained far longer": 1.49,
    "multiplicative LSTM, published, far larger and trained far longer": 1.24,
}

Params = Any  # a tree of arrays
Carry = tuple[tuple[jax.Array, jax.Array], ...]  # of each layer: c and h [B, H]


class CharLM(nn.Module):
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, text: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        """text [B, T] of bytes -> logits of the bytes after them [B, T, SYMBOLS], carry."""
        x = nn.Embed(SYMBOLS, EMBEDDING)(text)
        after = []
        for state in carry:
            cell = nn.OptimizedLSTMCell(self.hidden)
            state, x = RNN(cell, return_carry=True)(x, initial_carry=state)
            after.append(state)
        return nn.Dense(SYMBOLS)(x), tuple(after)

    def start(self, batch: int) -> Carry:
        zeros = jnp.zeros((batch, self.hidden))
        return ((zeros, zeros),) * self.layers


def bits(model: CharLM, params: Params, chunk: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
    """Mean bits a character over a chunk [B, T + 1], and the carry for the next chunk."""
    result: Any = model.apply(params, chunk[:, :-1], carry)
    logits, carry = result
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, chunk[:, 1:].astype(jnp.int32))
    return loss.mean() / math.log(2), carry


def fit(
    model: CharLM, text: np.ndarray, *, steps: int, batch: int, length: int, seed: int
) -> tuple[Params, list[float]]:
    """Trained parameters and the bits a character of every step."""
    params: Params = model.init(
        jax.random.key(seed), jnp.zeros((batch, 1), jnp.uint8), model.start(batch)
    )
    rate = optax.cosine_decay_schedule(4e-3, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def step(params: Params, state: optax.OptState, chunk: jax.Array, carry: Carry) -> Any:
        gradient_of = jax.value_and_grad(bits, argnums=1, has_aux=True)
        (loss, carry), gradient = gradient_of(model, params, chunk, carry)
        update, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, update), state, carry, loss

    state = optimizer.init(params)
    losses: list[float] = []
    with tqdm(total=steps, unit="step") as bar:
        while len(losses) < steps:  # once through the text, and again from its start
            carry = model.start(batch)
            for chunk in chunks(text, batch, length):
                params, state, carry, loss = step(params, state, chunk, carry)
                losses.append(float(loss))
                bar.set_postfix_str(f"{np.mean(losses[-50:]):.3f} bits/char", refresh=False)
                bar.update()
                if len(losses) == steps:
                    break
    return params, losses


def evaluate(model: CharLM, params: Params, text: np.ndarray, batch: int, length: int) -> float:
    """Mean bits a character over a text, the state carried all the way."""
    measure = jax.jit(bits, static_argnums=0)
    carry, losses = model.start(batch), []
    for chunk in chunks(text, batch, length):
        loss, carry = measure(model, params, chunk, carry)
        losses.append(loss)
    return float(np.mean(losses))


def sample(model: CharLM, params: Params, prompt: bytes, count: int, seed: int) -> bytes:
    """The prompt's continuation, drawn at temperature 0.8."""
    seen = jnp.frombuffer(prompt, jnp.uint8)[None]
    # On a CPU the layers' weights are packed once for all the single steps that follow.
    mutable = ["packed"] if jax.default_backend() == "cpu" else []
    state: Any
    state, packed = model.apply(params, seen, model.start(1), mutable=mutable)
    params = {**params, **packed}

    def draw(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        logits, carry = state
        symbol = jax.random.categorical(key, logits[:, -1] / 0.8).astype(jnp.uint8)
        return model.apply(params, symbol[:, None], carry), symbol[0]

    state = state[0][:, -1:], state[1]  # from here on one symbol at a time
    _, drawn = jax.lax.scan(draw, state, jax.random.split(jax.random.key(seed), count))
    return np.asarray(drawn).tobytes()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.charlm", description=__doc__)
    parser.add_argument("--steps", type=_positive, default=2000)
    parser.add_argument("--hidden", type=_positive, default=256, help="units of a layer")
    parser.add_argument("--layers", type=_positive, default=1)
    parser.add_argument("--batch", type=_positive, default=32, help="places read in step")
    parser.add_argument("--length", type=_positive, default=128, help="of a chunk, in characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a file of any bytes instead of enwik8")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of downloads")
    options = parser.parse_args(arguments)
    shape = {"batch": options.batch, "length": options.length}

    train, _, test = split(options.data.read_bytes() if options.data else enwik8(options.cache))
    model = CharLM(options.hidden, options.layers)
    params, _ = fit(model, train, steps=options.steps, seed=options.seed, **shape)
    measured = test[:MEASURED]
    print(f"Bits a character over {len(measured)} held-out bytes:", flush=True)
    print(f"  {evaluate(model, params, measured, **shape):.2f}   this model")
    if not options.data:
        for name, value in YARDSTICKS.items():
            print(f"  {value:.2f}   {name}")
    prompt = test[:200].tobytes()
    continued = sample(model, params, prompt, 400, options.seed)
    print(f"\nGiven:\n{_readable(prompt)}\n\nThe model goes on:\n{_readable(continued)}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _readable(text: bytes) -> str:
    return text.decode("utf-8", "replace")
