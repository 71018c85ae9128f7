# SPDX-License-Identifier: Apache-2.0
"""The recogniser of examples/speech in PyTorch, at equal steps: a sanity check of learning.

See `benchmarks.torch_twin`. Takes the options of `python -m examples.speech`:

    python -m benchmarks.speech_torch --preset long
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, dropout, relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.torch_twin import Twin, lstm_matches, save, train
from examples.common import hosts
from examples.speech import corpus, run
from examples.speech.__main__ import parse, settings_from
from examples.speech.batches import Batch
from examples.speech.model import KERNELS, NORM_EPSILON, ModelConfig, steps
from examples.speech.prepare import prepare
from examples.speech.recognize import make_evaluate
from examples.speech.step import initial_state
from examples.speech.text import BLANK, SYMBOLS


class TorchRecognizer(Twin):
    """examples.speech.model.Recognizer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, wide = config.channels, 2 * config.hidden
        inputs = [steps(config.mels) * channels] + [wide] * (config.layers - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, channels, kernel, stride=2, padding=[size // 2 for size in kernel])
            for before, kernel in zip((1, channels), KERNELS, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=NORM_EPSILON) for size in [*inputs, wide])
        self.layers = nn.ModuleList(
            nn.LSTM(size, config.hidden, batch_first=True, bidirectional=True) for size in inputs
        )
        self.symbols = nn.Linear(wide, SYMBOLS)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """features [B,T,M], frames [B] -> log-probabilities of symbols [B,S,V]."""
        x, lengths = features[:, None], frames  # x [B,C,T,M]
        for convolution in self.convolutions:
            x, lengths = relu(convolution(x)), (lengths + 1) // 2
            inside = torch.arange(x.shape[2]) < lengths[:, None]
            x = x * inside[:, None, :, None]
        x = x.permute(0, 2, 3, 1).flatten(2)  # [B,S,M/4*C]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            packed = pack_padded_sequence(
                self._drop(norm(x)), lengths, batch_first=True, enforce_sorted=False
            )
            x, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.symbols(self._drop(self.norms[-1](x))).log_softmax(-1)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)

    def matches(self, params: Any) -> list[tuple[Tensor, np.ndarray]]:
        pairs = []
        for index, convolution in enumerate(self.convolutions):
            flax = params[f"convolution_{index}"]
            pairs.append((convolution.weight.permute(2, 3, 1, 0), np.asarray(flax["kernel"])))
            pairs.append((convolution.bias, np.asarray(flax["bias"])))
        names = [f"norm_{index}" for index in range(self.config.layers)] + ["norm_out"]
        for name, norm in zip(names, self.norms, strict=True):
            pairs.append((norm.weight, np.asarray(params[name]["scale"])))
            pairs.append((norm.bias, np.asarray(params[name]["bias"])))
        for index, layer in enumerate(self.layers):
            pairs += lstm_matches(layer, "l0", params[f"forward_cell_{index}"])
            pairs += lstm_matches(layer, "l0_reverse", params[f"backward_cell_{index}"])
        pairs.append((self.symbols.weight, np.asarray(params["symbols"]["kernel"]).T))
        pairs.append((self.symbols.bias, np.asarray(params["symbols"]["bias"])))
        return pairs


def batch_loss(model: TorchRecognizer, batch: Batch) -> Tensor:
    """CTC loss of one batch in nats a letter."""
    features, frames, symbols, counts = map(torch.from_numpy, batch)
    log_probs = model(features, frames).transpose(0, 1)  # [S,B,V]
    losses = ctc_loss(log_probs, symbols, steps(frames), counts, blank=BLANK, reduction="none")
    return losses[counts > 0].sum() / counts.sum()


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    settings = settings_from(options)
    if settings.dtype != "float32":
        raise SystemExit(f"--dtype: expected float32 for the comparison, got {settings.dtype}")
    prepared = prepare(settings, corpus.load(settings.corpus, settings.mels, options.cache))
    options.output.mkdir(parents=True, exist_ok=True)
    model = TorchRecognizer(prepared.config)
    params, measured, _ = train(
        model,
        initial_state(prepared.config, settings).params,
        lambda batch: batch_loss(model, batch),
        prepared.batches,
        make_evaluate(prepared.config, prepared.valid, hosts.make_mesh(settings.batch, 1)),
        settings,
    )
    result = {**run.transcribe_test(params, prepared, settings, options.output), **measured}
    print(save(f"speech-{options.preset}", result, settings))


if __name__ == "__main__":
    sys.exit(main())
