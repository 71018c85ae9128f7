# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: eight CPU devices, no silent promotion, warnings as errors.

Warnings become errors through `filterwarnings` in pyproject.toml.
"""

from __future__ import annotations

import os

FLAG = "--xla_force_host_platform_device_count=8"
if FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()

# The device count is read once, when jax first starts its CPU client.
import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
