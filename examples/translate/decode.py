# SPDX-License-Identifier: Apache-2.0
"""Beam search, batched and jitted; a beam of one is greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.translate.batches import Example, collate
from examples.translate.model import MASKED, ModelConfig, Translator
from examples.translate.tokens import BEGIN, END, PAD

Params = Any


class _Search(NamedTuple):
    """K hypotheses for each of B sentences, kept flat where the model sees them."""

    time: jax.Array
    pieces: jax.Array  # [B,K,T]
    scores: jax.Array  # [B,K] sum of log-probabilities
    lengths: jax.Array  # [B,K] pieces so far, end mark included
    done: jax.Array  # [B,K] bool
    carries: Any  # leaves [B*K,H]


@partial(jax.jit, static_argnames=("config", "beam", "limit"))
def beam_search(
    params: Params,
    source: jax.Array,
    lengths: jax.Array,
    *,
    config: ModelConfig,
    beam: int,
    limit: int,
) -> tuple[jax.Array, jax.Array]:
    """source [B,S], lengths [B] -> pieces [B,limit] (end mark, then padding), scores [B].

    The score is the mean log-probability of a piece, the end mark included: hypotheses of different
    lengths compete on it at every step, and one that `limit` cuts off competes as it is.
    """
    model, variables = Translator(config), {"params": params}
    batch = source.shape[0]
    memory, carries = model.apply(variables, source, lengths, method="encode")
    memory, carries = jax.tree.map(lambda x: jnp.repeat(x, beam, 0), (memory, carries))
    if jax.default_backend() == "cpu":  # the decoder's weights are packed once for all steps
        begin = jnp.full(batch * beam, BEGIN)
        _, packed = model.apply(
            variables, begin, carries, memory, method="step", mutable=["packed"]
        )
        variables |= packed
    rows = jnp.arange(batch)[:, None]
    empty = source[:, :1] == PAD  # rows that only fill the batch must not keep the search going

    def extend(search: _Search) -> _Search:
        last = search.pieces[:, :, search.time - 1].reshape(-1)
        last = jnp.where(search.time == 0, BEGIN, last)
        logits, _, stepped = model.apply(variables, last, search.carries, memory, method="step")
        step_scores = jax.nn.log_softmax(logits).reshape(batch, beam, -1)  # [B,K,V]
        vocabulary = step_scores.shape[-1]
        step_scores = step_scores.at[:, :, jnp.array([PAD, BEGIN])].set(MASKED)
        only_pad = jnp.full(vocabulary, MASKED).at[PAD].set(0.0)
        step_scores = jnp.where(search.done[:, :, None], only_pad[None, None], step_scores)
        sums = search.scores[:, :, None] + step_scores
        grown = jnp.where(search.done, search.lengths, search.lengths + 1)  # [B,K]
        _, best = jax.lax.top_k(_mean(sums, grown[:, :, None]).reshape(batch, -1), beam)
        parent, piece = best // vocabulary, best % vocabulary  # [B,K]
        flat = (rows * beam + parent).reshape(-1)
        return _Search(
            search.time + 1,
            search.pieces[rows, parent].at[:, :, search.time].set(piece),
            sums.reshape(batch, -1)[rows, best],
            grown[rows, parent],
            search.done[rows, parent] | (piece == END),
            jax.tree.map(lambda x: x[flat], stepped),
        )

    first = jnp.where(jnp.arange(beam) == 0, 0.0, MASKED)  # identical hypotheses must not compete
    search = jax.lax.while_loop(
        lambda search: (search.time < limit) & ~search.done.all(),
        extend,
        _Search(
            jnp.zeros((), jnp.int32),
            jnp.full((batch, beam, limit), PAD, jnp.int32),
            jnp.tile(first, (batch, 1)),
            jnp.zeros((batch, beam), jnp.int32),
            jnp.tile(empty, (1, beam)),
            carries,
        ),
    )
    scores = _mean(search.scores, search.lengths)
    winner = jnp.argmax(scores, 1)
    return search.pieces[rows[:, 0], winner], scores[rows[:, 0], winner]


def _mean(sums: jax.Array, lengths: jax.Array) -> jax.Array:
    return sums / jnp.maximum(lengths, 1).astype(sums.dtype)


def translate(
    params: Params,
    config: ModelConfig,
    sources: Sequence[Sequence[int]],
    *,
    widths: Sequence[int],
    batch: int,
    beam: int,
) -> list[list[int]]:
    """Each source's best translation as piece numbers, in the sources' order.

    A source is padded to the smallest of `widths` that holds it (cut to the last one).
    """
    results: list[list[int]] = [[] for _ in sources]
    bucket = np.searchsorted(widths, [min(len(source), widths[-1]) for source in sources])
    for index, width in enumerate(widths):
        members = np.flatnonzero(bucket == index)
        for start in range(0, len(members), batch):
            rows = members[start : start + batch]
            examples = [Example(list(sources[row][:width]), []) for row in rows]
            padded = collate(examples, batch, width)
            pieces, _ = beam_search(
                params,
                padded.source,
                padded.lengths,
                config=config,
                beam=beam,
                limit=2 * width + 4,
            )
            for row, found in zip(rows, np.asarray(pieces), strict=False):
                ends = np.flatnonzero((found == END) | (found == PAD))
                results[row] = found[: ends[0] if len(ends) else len(found)].tolist()
    return results
