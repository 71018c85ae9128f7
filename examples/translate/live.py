# SPDX-License-Identifier: Apache-2.0
"""Lines translated as they come in, each subword shown as soon as it is found.

The encoder reads a sentence in both directions, so a line waits for its end; the decoder does not.
It is greedy: a beam may think better of every subword until the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from examples.translate.batches import Example, collate
from examples.translate.model import MASKED, Carry, Memory, ModelConfig, Translator
from examples.translate.tokens import BEGIN, END, PAD

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # of a letter that is spelt in several bytes


class Decoder:
    """A model that translates a sentence at a time, of at most `width` subwords.

    Sentences of any length are padded to that width: two programs serve them all, and are compiled
    here. The decoder's weights are packed once, for all steps of all sentences.
    """

    def __init__(self, params: Any, config: ModelConfig, width: int) -> None:
        self.width, self.variables = width, {"params": params}
        model = Translator(config)
        self._encode = jax.jit(partial(model.apply, method="encode"))

        @partial(jax.jit, donate_argnums=2)
        def step(
            variables: Any, piece: jax.Array, carries: list[Carry], memory: Memory
        ) -> tuple[jax.Array, list[Carry]]:
            logits, _, carries = model.apply(variables, piece, carries, memory, method="step")
            never = jnp.array([PAD, BEGIN])
            return logits.at[:, never].set(MASKED).argmax(-1), carries

        self._step = step
        memory, carries = self._encoded([])
        if jax.default_backend() == "cpu":
            begin = jnp.full(1, BEGIN)
            _, packed = model.apply(
                self.variables, begin, carries, memory, method="step", mutable=["packed"]
            )
            self.variables |= packed
        next(self([]), None)

    def __call__(self, source: Sequence[int]) -> Iterator[int]:
        """The subwords of a translation, one after the other; what is too long is cut."""
        memory, carries = self._encoded(source[: self.width])
        piece = jnp.full(1, BEGIN)
        for _ in range(2 * self.width + 4):
            piece, carries = self._step(self.variables, piece, carries, memory)
            if int(piece[0]) == END:
                return
            yield int(piece[0])

    def _encoded(self, source: Sequence[int]) -> tuple[Memory, list[Carry]]:
        one = collate([Example(list(source), [])], 1, self.width)
        return self._encode(self.variables, one.source, one.lengths)


def grown(pieces: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """What each subword adds to the text; nothing for a part of a letter until its last."""
    found: list[int] = []
    shown = ""
    for piece in pieces:
        found.append(piece)
        text = decode(found)
        if not text.endswith(_UNFINISHED):
            yield text[len(shown) :]
            shown = text
    yield decode(found)[len(shown) :]


def translate_lines(
    lines: Iterable[str],
    decoder: Decoder,
    encode: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    decode: Callable[[Sequence[int]], str],
    show: Callable[[str], None],
) -> None:
    """Shows the translation of each line as it grows, and a line's end after it."""
    for line in lines:
        for text in grown(decoder(encode([line.strip()])[0]), decode) if line.strip() else ():
            show(text)
        show("\n")
