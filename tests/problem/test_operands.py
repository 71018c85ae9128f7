# SPDX-License-Identifier: Apache-2.0
"""The table of operands, and that both languages know the same cells."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pytest

from jax_persistent.cells import CELLS
from jax_persistent.ffi.registration import native_module
from jax_persistent.problem import Problem, operands

PROBLEM = Problem("forward", CELLS["lstm"], 2, 3, 5, 4, 6, "bfloat16", parts=("inputs", "lengths"))


def test_every_row_of_the_table_is_read() -> None:
    text = resources.files("jax_persistent.problem").joinpath("operands.def").read_text()
    rows = re.findall(r"^JP_(?:OPERAND|RESULT)\(.*$", text, re.M)
    assert sum(map(len, operands._TABLES.values())) == len(rows)
    assert {leaf.part for table in operands._TABLES.values() for leaf in table} <= {
        operands.ALWAYS,
        *operands.PARTS,
    }


def test_shapes_and_dtypes_follow_from_the_problem() -> None:
    found = {leaf.name: PROBLEM.shape_of(leaf) for leaf in PROBLEM.operands()}
    assert found == {
        "x": (2, 3, 5, 4),
        "input_kernel": (2, 1, 4, 24),
        "recurrent_kernel": (2, 1, 6, 24),
        "lengths": (2, 3),
        "initial_state": (2, 1, 3, 6),
    }
    turned = replace(PROBLEM, time_major=True)
    assert turned.shape_of(turned.operands()[0]) == (2, 5, 3, 4)
    dtypes = [PROBLEM.dtype_of(leaf) for leaf in PROBLEM.operands()]
    assert dtypes == ["bfloat16", "bfloat16", "bfloat16", "int32", "bfloat16", "bfloat16"]
    of_a_chunk = PROBLEM.having("forward", {"inputs", "chunked"})
    dtypes = [of_a_chunk.dtype_of(leaf) for leaf in of_a_chunk.operands()]
    assert dtypes == ["bfloat16", "bfloat16", "bfloat16", "float32", "float32"]


def test_an_optional_operand_is_none_by_name_and_not_in_the_list() -> None:
    flat = list(range(len(PROBLEM.operands())))
    arrays = PROBLEM.arrays(flat)
    assert arrays.bias is None
    assert arrays.initial_state == (4, 5)
    assert PROBLEM.flat(arrays) == flat


def test_a_problem_survives_its_encoding() -> None:
    encoded = PROBLEM.encoded()
    assert encoded["parts"] == "inputs lengths"
    assert Problem.decoded("forward", encoded, None) == PROBLEM


def test_a_devices_part_has_its_own_sizes() -> None:
    shapes = [list(PROBLEM.shape_of(leaf)) for leaf in PROBLEM.operands()]
    for shape, leaf in zip(shapes, PROBLEM.operands(), strict=True):
        if "b" in leaf.batch_major:
            shape[leaf.batch_major.index("b")] = 1
    assert PROBLEM.with_sizes_of(shapes) == replace(PROBLEM, batch=1)


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(KeyError, match="lenghts"):
        PROBLEM.having("forward", {"inputs", "lenghts"})


def test_both_languages_know_the_same_cells() -> None:
    ours = {
        name: {
            "gates": cell.gates,
            "residuals": cell.residuals,
            "states": len(cell.states),
            "reset_after": cell.reset_after,
        }
        for name, cell in CELLS.items()
    }
    assert native_module().cells() == ours
