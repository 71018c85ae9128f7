# SPDX-License-Identifier: Apache-2.0
"""A new cell is three files: its reference, and for kernels a struct and a line in cells.def.

Here is the reference; tests/native/new_cell has the others, and runs the kernels that they make.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import close

from jax_persistent import cells
from jax_persistent.cells import Cell
from jax_persistent.ops import functions
from jax_persistent.problem import Arrays

ROOT = Path(__file__).resolve().parents[2]
T, B, I, H = 5, 3, 4, 6  # noqa: E741

MIXER = '''"""h' = (1 - u) n + u h, with u = sigmoid(.) and n = tanh(.) of both products."""

import jax
import jax.numpy as jnp

from jax_persistent.cells.cell import Cell


def step(input_gates, recurrent_gates, before):
    u, n = jnp.split(input_gates + recurrent_gates, 2, axis=-1)
    u, n = jax.nn.sigmoid(u), jnp.tanh(n)
    return ((1 - u) * n + u * before[0],), jnp.concatenate([u, n], axis=-1)


def step_tangent(residuals, before, h, d_input_gates, d_recurrent_gates, d_before):
    u, n = jnp.split(residuals, 2, axis=-1)
    du, dn = jnp.split(d_input_gates + d_recurrent_gates, 2, axis=-1)
    du, dn = du * u * (1 - u), dn * (1 - n * n)
    dh = du * (before[0] - n) + (1 - u) * dn + u * d_before[0]
    return (dh,), jnp.concatenate([du, dn], axis=-1)


CELLS = (Cell("mixer", 2, 2, ("h",), False, step, step_tangent),)
'''


@pytest.fixture
def mixer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """The cell of a file in jax_persistent/cells."""
    (tmp_path / "mixer.py").write_text(MIXER)
    monkeypatch.setattr(cells, "__path__", [*cells.__path__, str(tmp_path)])
    found = cells.discovered()
    monkeypatch.delitem(sys.modules, "jax_persistent.cells.mixer")
    assert set(found) == {*cells.CELLS, "mixer"}
    return found["mixer"]


def test_its_file_is_all_that_its_reference_takes(mixer: Cell) -> None:
    """Values and gradients of the primitives are those that JAX derives from the plain scan."""
    draw = np.random.default_rng(0)
    sizes = {
        "x": (B, T, I),
        "input_kernel": (I, 2 * H),
        "recurrent_kernel": (H, 2 * H),
        "bias": (2 * H,),
    }
    resets = jnp.asarray(draw.random((B, T)) < 0.3)
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(0.5 * draw.standard_normal(s)) for name, s in sizes.items()}

        def loss(arrays, backend):
            given = Arrays(arrays | {"resets": resets, "lengths": jnp.array([3, 5, 0], jnp.int32)})
            outputs, (h,) = functions.run(
                mixer, given, directions="reverse", time_major=False, backend=backend
            )
            return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(h))

        found, expected = (
            jax.jit(jax.value_and_grad(lambda a, b=backend: loss(a, b)))(arrays)
            for backend in (None, "reference")
        )
        close(found, expected, 1e-10)


def test_kernels_name_no_cell() -> None:
    """Outside native/cells: what they know of a cell is what its struct says."""
    structs = re.findall(
        r"^JP_CELL\(\w+, (\w+)\)", (ROOT / "native/cells/cells.def").read_text(), re.MULTILINE
    )
    assert len(structs) == len(cells.CELLS)
    names = re.compile(rf"\bk?({'|'.join(structs)})\b")
    sources = [
        path
        for folder in ("native", "cuda")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".cc", ".h", ".cuh", ".in") and path.parent.name != "cells"
    ]
    assert len(sources) > 40
    naming = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources
        for line in path.read_text().splitlines()
        if names.search(line.split("//")[0])
    ]
    assert naming == []
