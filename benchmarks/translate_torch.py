# SPDX-License-Identifier: Apache-2.0
"""The translator of examples/translate in PyTorch, at equal steps: a sanity check of learning.

See `benchmarks.torch_twin`. Takes the options of `python -m examples.translate`:

    python -m benchmarks.translate_torch --preset long
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.torch_twin import Twin, lstm_matches, save, train
from examples.translate import corpus, run
from examples.translate.__main__ import parse, settings_from
from examples.translate.batches import Batch
from examples.translate.model import MASKED, ModelConfig
from examples.translate.prepare import prepare
from examples.translate.step import initial_state, make_evaluate
from examples.translate.tokens import PAD


class TorchTranslator(Twin):
    """examples.translate.model.Translator under teacher forcing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden, embedding = config.hidden, config.embedding
        inputs = [embedding] + [hidden] * (config.layers - 1)
        self.source_embedding = nn.Embedding(config.source_vocabulary, embedding)
        self.target_embedding = nn.Embedding(config.target_vocabulary, embedding)
        self.encoder = nn.ModuleList(
            nn.LSTM(size, hidden // 2, batch_first=True, bidirectional=True) for size in inputs
        )
        self.decoder = nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for size in inputs)
        self.score = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, embedding)
        self.output_bias = nn.Parameter(torch.zeros(config.target_vocabulary))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """source [B,S], lengths [B], target [B,T] -> logits [B,T,V]."""
        scale = self.config.embedding**0.5
        x, states = self.source_embedding(source) * scale, []
        for layer in self.encoder:
            packed = pack_padded_sequence(
                self._drop(x), lengths, batch_first=True, enforce_sorted=False
            )
            outputs, final = layer(packed)
            x, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])
            states.append(tuple(state.transpose(0, 1).flatten(1)[None] for state in final))
        memory, x = x, self.target_embedding(target) * scale
        for layer, state in zip(self.decoder, states, strict=True):
            x, _ = layer(self._drop(x), state)
        scores = self.score(x) @ memory.transpose(1, 2)  # [B,T,S]
        padding = torch.arange(source.shape[1]) >= lengths[:, None]
        attention = scores.masked_fill(padding[:, None], MASKED).softmax(-1)
        combined = self._drop(self.combine(torch.cat((attention @ memory, x), -1)).tanh())
        return combined @ self.target_embedding.weight.T + self.output_bias

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)

    def matches(self, params: Any) -> list[tuple[Tensor, np.ndarray]]:
        leaf = np.asarray
        pairs = [
            (self.source_embedding.weight, leaf(params["source_embedding"]["embedding"])),
            (self.target_embedding.weight, leaf(params["target_embedding"]["embedding"])),
            (self.score.weight, leaf(params["score"]["kernel"]).T),
            (self.combine.weight, leaf(params["combine"]["kernel"]).T),
            (self.combine.bias, leaf(params["combine"]["bias"])),
            (self.output_bias, leaf(params["output_bias"])),
        ]
        for index, (encoder, decoder) in enumerate(zip(self.encoder, self.decoder, strict=True)):
            pairs += lstm_matches(encoder, "l0", params[f"forward_cells_{index}"])
            pairs += lstm_matches(encoder, "l0_reverse", params[f"backward_cells_{index}"])
            pairs += lstm_matches(decoder, "l0", params[f"decoder_cells_{index}"])
        return pairs


def batch_loss(model: TorchTranslator, batch: Batch, smoothing: float) -> Tensor:
    """Label-smoothed loss of one batch, averaged over its subwords."""
    source, lengths, inputs, targets = (torch.from_numpy(array).long() for array in batch)
    logits = model(source, lengths, inputs)
    return cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    settings = settings_from(options)
    if settings.dtype != "float32":
        raise SystemExit(f"--dtype: expected float32 for the comparison, got {settings.dtype}")
    prepared = prepare(settings, corpus.load(options.data, options.cache), options.cache)
    options.output.mkdir(parents=True, exist_ok=True)
    evaluate = make_evaluate(prepared.config)
    model = TorchTranslator(prepared.config)
    params, measured, seconds = train(
        model,
        initial_state(prepared.config, settings).params,
        lambda batch: batch_loss(model, batch, settings.label_smoothing),
        prepared.batches,
        lambda params: {"valid_loss": evaluate(params, prepared.valid)},
        settings,
    )
    tokens = [int((prepared.batches.at(step).targets != PAD).sum()) for step in range(len(seconds))]
    _, found = run.translate_test(params, prepared, settings)
    result = {
        **run.show_and_score(found, prepared, options.output),
        "test_sentences": len(prepared.test),
        **measured,
        "train_tokens_per_second": round(float(np.median(np.divide(tokens, seconds)))),
    }
    path = save(f"translate-{options.preset}", result, settings)
    print(f"BLEU {result['bleu']}, chrF {result['chrf']}: {path}")


if __name__ == "__main__":
    sys.exit(main())
