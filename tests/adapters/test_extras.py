# SPDX-License-Identifier: Apache-2.0
"""An adapter without its framework says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("name", ["keras", "equinox", "haiku"])
def test_a_missing_framework(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"jax_persistent.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'jax-persistent\[{name}\]'"):
        importlib.import_module(f"jax_persistent.{name}")
