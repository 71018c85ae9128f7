# SPDX-License-Identifier: Apache-2.0
"""Deep-Speech-style acoustic model: convolutions, bidirectional LSTMs, a symbol for each step.

Two convolutions over time and frequency halve both twice; stacked bidirectional LSTMs then run over
each utterance's own length. Sources: Amodei et al., "Deep Speech 2", ICML 2016; Graves et al.,
"Connectionist temporal classification", ICML 2006.

Shapes: B utterances, T frames, M mel filters, S = steps(T), C channels, H hidden units of a
direction, V symbols with the blank.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from examples.speech.convolution import strided
from examples.speech.text import SYMBOLS
from jax_persistent import linen as persistent

KERNELS = (11, 9), (5, 5)  # frames and filters that a convolution sees
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; `scan` selects flax's own RNN, a lax.scan, in place of the kernels."""

    mels: int = 40
    channels: int = 32
    hidden: int = 128
    layers: int = 3
    dropout: float = 0.1
    dtype: str = "float32"
    scan: bool = False


def steps(frames):
    """What is left of a number of frames, or of an array of them, after the convolutions."""
    for _ in KERNELS:
        frames = (frames + 1) // 2
    return frames


class Recognizer(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, features: jax.Array, frames: jax.Array, *, train: bool = False) -> jax.Array:
        """features [B,T,M], frames [B] -> log-probabilities of symbols [B,S,V] float32."""
        config = self.config
        x, lengths = features[..., None].astype(config.dtype), frames  # x [B,T,M,C]
        for index, (time, mels) in enumerate(KERNELS):
            # Padding is the same for every width, so that batches of any width compute the same.
            x = nn.Conv(
                config.channels,
                (time, mels),
                strides=2,
                padding=((time // 2, time // 2), (mels // 2, mels // 2)),
                dtype=config.dtype,
                conv_general_dilated=strided,
                name=f"convolution_{index}",
            )(x)
            lengths = (lengths + 1) // 2
            x = jnp.where(_inside(lengths, x.shape[1])[..., None, None], nn.relu(x), 0)
        x = x.reshape(*x.shape[:2], -1)  # [B,S,M/4*C]
        for index in range(config.layers):
            x = nn.LayerNorm(epsilon=NORM_EPSILON, dtype=config.dtype, name=f"norm_{index}")(x)
            x = nn.Dropout(config.dropout)(x, deterministic=not train)
            x = self._bidirectional(index)(x, seq_lengths=lengths)  # [B,S,2H]
        x = nn.LayerNorm(epsilon=NORM_EPSILON, dtype=config.dtype, name="norm_out")(x)
        x = nn.Dropout(config.dropout)(x, deterministic=not train)
        logits = nn.Dense(SYMBOLS, dtype=config.dtype, name="symbols")(x)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def _bidirectional(self, index: int) -> nn.Bidirectional:
        config = self.config
        cells = (
            nn.OptimizedLSTMCell(config.hidden, dtype=config.dtype, name=f"{way}_cell_{index}")
            for way in ("forward", "backward")
        )
        if config.scan:
            return nn.Bidirectional(*map(nn.RNN, cells))
        # Nothing reads past an utterance's length, so the kernel need not compute it.
        rnns = (persistent.RNN(cell, mask_outputs=True) for cell in cells)
        return persistent.Bidirectional(*rnns)


def _inside(lengths: jax.Array, width: int) -> jax.Array:
    """lengths [B] -> [B,width] bool."""
    return jnp.arange(width)[None] < lengths[:, None]
