"""The translator of examples/translate in PyTorch, at equal steps: a sanity check of learning.

The same initial parameters, batches in the same order, loss, optimiser and schedule; the trained
parameters go back into the JAX model, so that both are decoded by one beam search. Only the random
numbers of dropout differ. Takes the options of `python -m examples.translate`:

    python -m benchmarks.translate_torch --preset long
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from tqdm import tqdm

from examples.translate import corpus, run
from examples.translate.__main__ import parse, settings_from
from examples.translate.batches import Batch
from examples.translate.model import MASKED, ModelConfig
from examples.translate.prepare import Prepared, prepare
from examples.translate.settings import Settings
from examples.translate.step import initial_state, learning_rate, make_evaluate
from examples.translate.tokens import PAD

RESULTS = Path(__file__).parent / "results"
GATES = "ifgo"


class TorchTranslator(nn.Module):
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

    @torch.no_grad()
    def load_flax(self, params: Any) -> None:
        """Takes over the JAX model's parameters. Flax has one bias a gate: the other stays zero."""
        for torch_parameter, flax_value in self._matches(params):
            torch_parameter.copy_(torch.from_numpy(np.array(flax_value)))
        for layer in (*self.encoder, *self.decoder):
            for name, parameter in layer.named_parameters():
                if name.startswith("bias_ih"):
                    parameter.zero_().requires_grad_(False)

    @torch.no_grad()
    def store_flax(self, params: Any) -> Any:
        """The JAX model's tree (a copy of `params`) with this model's parameters."""
        params = jax.tree.map(lambda leaf: np.array(leaf), params)
        for torch_parameter, flax_value in self._matches(params):
            flax_value[...] = torch_parameter.detach().numpy()
        return params

    def _matches(self, params: Any) -> list[tuple[Tensor, np.ndarray]]:
        """Each parameter beside its twin, as views of one shape."""
        leaf = np.asarray
        pairs = [
            (self.source_embedding.weight, leaf(params["source_embedding"]["embedding"])),
            (self.target_embedding.weight, leaf(params["target_embedding"]["embedding"])),
            (self.score.weight, leaf(params["score"]["kernel"]).T),
            (self.combine.weight, leaf(params["combine"]["kernel"]).T),
            (self.combine.bias, leaf(params["combine"]["bias"])),
            (self.output_bias, leaf(params["output_bias"])),
        ]
        for index in range(self.config.layers):
            for layer, suffix, name in (
                (self.encoder[index], "l0", "forward_cells"),
                (self.encoder[index], "l0_reverse", "backward_cells"),
                (self.decoder[index], "l0", "decoder_cells"),
            ):
                cell = params[f"{name}_{index}"]
                for part, weight in (("i", "weight_ih"), ("h", "weight_hh")):
                    chunks = getattr(layer, f"{weight}_{suffix}").chunk(len(GATES))
                    for gate, chunk in zip(GATES, chunks, strict=True):
                        pairs.append((chunk, leaf(cell[part + gate]["kernel"]).T))
                chunks = getattr(layer, f"bias_hh_{suffix}").chunk(len(GATES))
                for gate, chunk in zip(GATES, chunks, strict=True):
                    pairs.append((chunk, leaf(cell[f"h{gate}"]["bias"])))
        return pairs


def batch_loss(model: TorchTranslator, batch: Batch, smoothing: float) -> Tensor:
    """Label-smoothed loss of one batch, averaged over its subwords."""
    source, lengths, inputs, targets = (torch.from_numpy(array).long() for array in batch)
    logits = model(source, lengths, inputs)
    return cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


def train(prepared: Prepared, settings: Settings) -> tuple[Any, dict[str, Any]]:
    """Trains from the JAX model's initial parameters; returns its tree and what was measured."""
    torch.manual_seed(settings.seed)
    params = jax.tree.map(np.asarray, initial_state(prepared.config, settings).params)
    model = TorchTranslator(prepared.config)
    model.load_flax(params)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, weight_decay=settings.weight_decay)
    rate, evaluate = learning_rate(settings), make_evaluate(prepared.config)
    valid_losses, speeds = {}, []
    progress = tqdm(range(settings.steps), desc="training (PyTorch)", unit="step")
    for step in progress:
        batch = prepared.batches.at(step)
        began = time.perf_counter()
        loss = batch_loss(model, batch, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.step()
        speeds.append(int((batch.targets != PAD).sum()) / (time.perf_counter() - began))
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
            valid_losses[step + 1] = evaluate(model.store_flax(params), prepared.valid)
            tqdm.write(f"step {step + 1}: validation loss {valid_losses[step + 1]:.4f}")
    return model.store_flax(params), {
        "valid_loss": valid_losses,
        "train_tokens_per_second": round(float(np.median(speeds))),
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    settings = settings_from(options)
    if settings.dtype != "float32":
        raise SystemExit(f"--dtype: expected float32 for the comparison, got {settings.dtype}")
    prepared = prepare(settings, corpus.load(options.data, options.cache), options.cache)
    options.output.mkdir(parents=True, exist_ok=True)
    params, measured = train(prepared, settings)
    _, found = run.translate_test(params, prepared, settings)
    result = {
        **run.show_and_score(found, prepared, options.output),
        "test_sentences": len(prepared.test),
        **measured,
        "versions": {"torch": torch.__version__, "jax": jax.__version__},
        "machine": platform.processor() or platform.machine(),
        "settings": dataclasses.asdict(settings),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"translate-{options.preset}-pytorch.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"BLEU {result['bleu']}, chrF {result['chrf']}: {path}")


if __name__ == "__main__":
    sys.exit(main())
