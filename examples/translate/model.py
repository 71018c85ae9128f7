# SPDX-License-Identifier: Apache-2.0
"""Attention sequence-to-sequence: bidirectional LSTM encoder, LSTM decoder, Luong attention.

Attention feeds nothing back into the decoder's LSTMs, so under teacher forcing every recurrence
runs over its whole sequence in one call, and attention for all steps is one batched product.

Shapes: B sentences, S source pieces, T target pieces, H hidden units, E embedding features,
V target vocabulary. Source: Luong et al., "Effective Approaches to Attention-based Neural Machine
Translation", EMNLP 2015 (global attention, `general` score).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_persistent import linen as persistent

Carry = Any
MASKED = -1e9


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; `scan` selects flax's own RNN, a lax.scan, in place of the kernels."""

    source_vocabulary: int
    target_vocabulary: int
    hidden: int = 256
    layers: int = 2
    embedding: int = 128
    dropout: float = 0.2
    dtype: str = "float32"
    scan: bool = False


class Memory(NamedTuple):
    """What the decoder reads of a source sentence."""

    states: jax.Array  # [B,S,H]
    mask: jax.Array  # [B,S] bool


class Translator(nn.Module):
    """`__call__` scores a whole target (training); `encode` and `step` serve the beam search."""

    config: ModelConfig

    def setup(self) -> None:
        config = self.config
        dtype = jnp.dtype(config.dtype)

        def recurrence(cell: nn.OptimizedLSTMCell) -> nn.RNN:
            # Nothing reads the encoder past a sentence's length, so the kernel need not compute it.
            return nn.RNN(cell) if config.scan else persistent.RNN(cell, mask_outputs=True)

        def cell(features: int) -> nn.OptimizedLSTMCell:
            return nn.OptimizedLSTMCell(features, dtype=dtype)

        def embedding(vocabulary: int) -> nn.Embed:
            return nn.Embed(vocabulary, config.embedding, dtype=dtype)

        self.source_embedding = embedding(config.source_vocabulary)
        self.target_embedding = embedding(config.target_vocabulary)
        self.forward_cells = [cell(config.hidden // 2) for _ in range(config.layers)]
        self.backward_cells = [cell(config.hidden // 2) for _ in range(config.layers)]
        bidirectional = nn.Bidirectional if config.scan else persistent.Bidirectional
        self.encoder = [
            bidirectional(recurrence(forward), recurrence(backward), return_carry=True)
            for forward, backward in zip(self.forward_cells, self.backward_cells, strict=True)
        ]
        self.decoder_cells = [cell(config.hidden) for _ in range(config.layers)]
        self.decoder = [recurrence(cell) for cell in self.decoder_cells]
        self.score = nn.Dense(config.hidden, use_bias=False, dtype=dtype)
        self.combine = nn.Dense(config.embedding, dtype=dtype)
        self.output_bias = self.param(
            "output_bias", nn.initializers.zeros_init(), (config.target_vocabulary,)
        )
        self.dropout = nn.Dropout(config.dropout)

    def __call__(
        self, source: jax.Array, lengths: jax.Array, target: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """source [B,S], lengths [B], target [B,T] (begin mark first) -> logits [B,T,V] float32."""
        return self._teacher_forced(source, lengths, target, train=train)[0]

    def attention(self, source: jax.Array, lengths: jax.Array, target: jax.Array) -> jax.Array:
        """Arguments of `__call__` -> attention [B,T,S] float32."""
        return self._teacher_forced(source, lengths, target, train=False)[1]

    def encode(
        self, source: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> tuple[Memory, list[Carry]]:
        """source [B,S], lengths [B] -> memory, and a carry for each layer of the decoder.

        A decoder layer starts from both directions' final states of the encoder layer beside it.
        """
        x = self._embed(self.source_embedding, source)  # [B,S,E]
        carries = []
        for layer in self.encoder:
            x = self.dropout(x, deterministic=not train)
            (forward, backward), x = layer(x, seq_lengths=lengths)  # x [B,S,H]
            carries.append(
                jax.tree.map(lambda f, b: jnp.concatenate((f, b), -1), forward, backward)
            )
        x = x.astype(self.config.dtype)  # an LSTM's outputs have its carry's dtype, float32
        return Memory(x, jnp.arange(source.shape[1])[None] < lengths[:, None]), carries

    def step(
        self, piece: jax.Array, carries: list[Carry], memory: Memory
    ) -> tuple[jax.Array, jax.Array, list[Carry]]:
        """piece [B], carries, memory -> logits [B,V], attention [B,S], carries."""
        x = self._embed(self.target_embedding, piece)  # [B,E]
        x, stepped = x[:, None], []
        for rnn, carry in zip(self.decoder, carries, strict=True):
            carry, x = rnn(x, initial_carry=carry, return_carry=True)  # x [B,1,H]
            stepped.append(carry)
        logits, attention = self._attend(x, memory, train=False)
        return logits[:, 0], attention[:, 0], stepped

    def _teacher_forced(
        self, source: jax.Array, lengths: jax.Array, target: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        memory, carries = self.encode(source, lengths, train=train)
        x = self._embed(self.target_embedding, target)  # [B,T,E]
        for rnn, carry in zip(self.decoder, carries, strict=True):
            x = rnn(self.dropout(x, deterministic=not train), initial_carry=carry)  # [B,T,H]
        return self._attend(x, memory, train=train)

    def _embed(self, embedding: nn.Embed, pieces: jax.Array) -> jax.Array:
        # The output layer shares the target table, whose rows are small; the LSTM wants unit scale.
        return embedding(pieces) * self.config.embedding**0.5

    def _attend(self, x: jax.Array, memory: Memory, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """x [B,T,H] -> logits [B,T,V] float32, attention [B,T,S] float32."""
        x = x.astype(self.config.dtype)
        scores = jnp.einsum("bth,bsh->bts", self.score(x), memory.states)
        scores = jnp.where(memory.mask[:, None], scores.astype(jnp.float32), MASKED)
        attention = jax.nn.softmax(scores)
        context = jnp.einsum("bts,bsh->bth", attention.astype(x.dtype), memory.states)
        combined = nn.tanh(self.combine(jnp.concatenate((context, x), -1)))  # [B,T,E]
        combined = self.dropout(combined, deterministic=not train)
        logits = self.target_embedding.attend(combined).astype(jnp.float32)
        return logits + self.output_bias[None, None], attention
