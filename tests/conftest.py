# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: eight CPU devices, no silent promotion, warnings as errors.

Warnings become errors through `filterwarnings` in pyproject.toml.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from compiling import xla_flags

# XLA's flags are read once, when jax first starts its CPU client.
FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = xla_flags(FLAG)

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes and drops many objects, nearly none of them in cycles; imported modules stay.
gc.set_threshold(100_000, 20, 20)

TESTS = Path(__file__).parent
# The files that take longest come first: workers share files out, and none is to be alone at the
# end. What is not named here takes a few seconds.
LONG_FIRST = (
    "examples/test_translate_hosts.py",
    "cuda/test_software_gpu.py",
    "cuda/test_binary.py",
    "ops/test_recurrence.py",
    "cuda/test_check_hardware.py",
    "ops/test_transforms.py",
    "programs/test_scan.py",
    "ops/test_gradients_of_a_part.py",
    "programs/test_random_steps.py",
    "linen/test_resets.py",
    "examples/test_speech_run.py",
    "examples/test_translate_run.py",
    "ops/test_handlers.py",
    "cells/test_library.py",
    "test_documents.py",
    "adapters/test_keras.py",
)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {TESTS / name: number for number, name in enumerate(LONG_FIRST)}
    gone = [str(path) for path in place if not path.exists()]
    if gone:
        raise pytest.UsageError(f"LONG_FIRST in {__file__} names {', '.join(gone)}")
    items.sort(key=lambda item: place.get(item.path, len(place)))
