# SPDX-License-Identifier: Apache-2.0
"""Subword tokens: one sentencepiece model for each language, trained on the training split."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3


@dataclass(frozen=True)
class Tokenizer:
    """Text to piece numbers and back. `model` is sentencepiece's own serialized form."""

    model: bytes

    def __post_init__(self) -> None:
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        object.__setattr__(self, "_processor", processor)

    @property
    def size(self) -> int:
        return self._processor.vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def decode(self, pieces: Sequence[int]) -> str:
        return self._processor.decode([int(piece) for piece in pieces])

    def pieces(self, pieces: Sequence[int]) -> list[str]:
        """Each piece as it is written, for the attention plot."""
        return [self._processor.id_to_piece(int(piece)) for piece in pieces]


def train_tokenizer(texts: Sequence[str], size: int, *, fold: bool, cache: Path) -> Tokenizer:
    """A tokenizer of at most `size` pieces; the cache is keyed by the text and the options.

    `fold` ignores case and Unicode variants (for the language that is only read); without it every
    text comes back from its pieces exactly. Raises ValueError if `size` can't hold the letters.
    """
    options = {
        "model_type": "unigram",
        "vocab_size": size,
        "hard_vocab_limit": False,
        "character_coverage": 0.9995,
        "byte_fallback": True,
        "normalization_rule_name": "nmt_nfkc_cf" if fold else "identity",
        "remove_extra_whitespaces": fold,
        "add_dummy_prefix": fold,
        "max_sentencepiece_length": 16 if fold else 6,
        "seed_sentencepiece_size": 100_000,
        "num_threads": 2,
        "pad_id": PAD,
        "bos_id": BEGIN,
        "eos_id": END,
        "unk_id": UNKNOWN,
        "minloglevel": 2,
    }
    content = "\n".join([repr(sorted(options.items())), sentencepiece.__version__, *texts])
    path = cache / "tokenizers" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.model"
    if not path.exists():
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=model, **options
            )
        except RuntimeError as error:
            raise ValueError(
                f"--vocabulary: {size} subwords do not suit this text: {error}"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(model.getvalue())
        partial.replace(path)
    return Tokenizer(path.read_bytes())
