# SPDX-License-Identifier: Apache-2.0
"""Where there are no programs of step functions, a scan is a `lax.scan`, and says so."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jax_persistent as jp
from jax_persistent import notices

H, T = 6, 5


def lowered(backend: str | None) -> str:
    R = jnp.eye(H)

    def run(h: Any) -> Any:
        return jp.scan(lambda h, x: (jnp.tanh(h @ R), h), h, length=T, backend=backend)

    traced = jax.jit(run).trace(jnp.ones((3, H)))
    return str(traced.lower(lowering_platforms=("cuda",)).as_text())


def test_another_platform_says_that_it_scans(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_SAID", set())
    with caplog.at_level(logging.WARNING, "jax_persistent"):
        text = lowered(None)
    assert "while" in text
    assert "jax_persistent.program" not in text
    assert "programs of step functions run on a CPU" in caplog.text


def test_another_platform_refuses_native() -> None:
    with pytest.raises(NotImplementedError, match="programs of step functions run on a CPU"):
        lowered("native")


def test_a_single_step_is_none_to_pack_for() -> None:
    """Unless it is asked for."""
    R = jnp.eye(H)

    def text(length: int, backend: str | None) -> str:
        run = lambda h: jp.scan(lambda h, x: (h @ R, h), h, length=length, backend=backend)  # noqa: E731
        return str(jax.jit(run).lower(jnp.ones((3, H))).as_text())

    assert "jax_persistent.program" not in text(1, None)
    assert "jax_persistent.program" in text(1, "native")
    assert "jax_persistent.program" in text(2, None)
