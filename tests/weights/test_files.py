# SPDX-License-Identifier: Apache-2.0
"""Files: the safetensors format, and `python -m jax_persistent convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jax_persistent import cli as command
from jax_persistent import weights
from jax_persistent.weights import safetensors
from jax_persistent.weights.files import LAYOUTS

I, H = 4, 6  # noqa: E741


def lstm(seed: int = 0, inputs: int = I, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {
        "input_kernel": (inputs, 4 * H),
        "recurrent_kernel": (H, 4 * H),
        "bias": (4 * H,),
    }
    return {name: draw.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert_array_equal(found[name], array)


def test_every_dtype_and_shape(tmp_path: Path) -> None:
    dtypes = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_)
    arrays = {f"a.{np.dtype(d).name}": np.arange(6).reshape(3, 2).astype(d) for d in dtypes}
    arrays |= {
        "transposed": np.arange(6.0).reshape(3, 2).T,
        "none": np.ones((0, 2)),
        "π": np.ones(()),
    }
    safetensors.save(tmp_path / "file", arrays)
    assert_same(safetensors.load(tmp_path / "file"), arrays)


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """One written by hand is read; what is written has what the format asks for."""
    header = b'{"__metadata__":{"by":"hand"},"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    assert_same(safetensors.load(tmp_path / "a"), {"x": values})
    safetensors.save(tmp_path / "b", {"x": values, "y": np.float32([3])})
    data = (tmp_path / "b").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    assert end % 8 == 0
    assert json.loads(data[8:end])["y"] == {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    assert data[end:] == values.tobytes() + np.float32([3]).tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "expected a safetensors file; its header is none"),
        (b"PK\x03\x04 and so on", "expected a safetensors file"),
        (b'{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', "x: expected dtype F64,"),
        (b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "x: expected 8 bytes for F32"),
        (b'{"x":{"dtype":"F32","shape":[2]}}', "expected a safetensors file"),
        (b"[1]", "expected a safetensors file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    if data[:1] in (b"{", b"["):
        data = len(data).to_bytes(8, "little") + data + b"\0\0\0\0"
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        safetensors.load(tmp_path / "file")


def test_a_dtype_that_the_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x: expected dtype F64, .*; got complex128"):
        safetensors.save(tmp_path / "file", {"x": np.ones(2, complex)})


def run(*arguments: Any) -> int:
    return command.main(["convert", *map(str, arguments)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_there_and_back(tmp_path: Path, layout: str, dtype: Any) -> None:
    """The bits of a PyTorch file after another layout."""
    source, other, back = (tmp_path / name for name in ("source", "other", "back"))
    state = weights.to_pytorch([[lstm(dtype=dtype)]])
    safetensors.save(source, {f"rnn.{name}": a for name, a in state.items()} | {"head": np.ones(1)})
    assert run(source, other, "--from", "pytorch", "--to", layout, "--prefix", "rnn.") == 0
    sizes = ["--input-size", I, "--hidden-size", H] if layout == "cudnn" else []
    assert run(other, back, "--from", layout, "--to", "pytorch", *sizes) == 0
    assert_same(safetensors.load(back), state)


def test_layers_and_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, other, back = (tmp_path / name for name in ("source", "other", "back"))
    layers = [[lstm(1), lstm(2)], [lstm(3, 2 * H), lstm(4, 2 * H)]]
    safetensors.save(source, weights.to_pytorch(layers))
    assert run(source, other, "--from", "pytorch", "--to", "jax_persistent") == 0
    assert "layers.1.backward.bias" in capsys.readouterr().out
    assert_same(safetensors.load(other), LAYOUTS["jax_persistent"][1](layers))
    assert run(other, back, "--from", "jax_persistent", "--to", "cudnn") == 0
    sizes = ["--input-size", I, "--hidden-size", H, "--num-layers", 2, "--bidirectional"]
    assert run(back, other, "--from", "cudnn", "--to", "pytorch", *sizes) == 0
    assert_same(safetensors.load(other), weights.to_pytorch(layers))
    for layout in ("keras", "onnx"):
        safetensors.save(source, weights.to_pytorch(layers[:1]))
        assert run(source, other, "--from", "pytorch", "--to", layout) == 0
        assert run(other, back, "--from", layout, "--to", "pytorch") == 0
        assert_same(safetensors.load(back), weights.to_pytorch(layers[:1]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "pytorch", "--to", "haste"], "written as haste: weights: Haste holds one dir"),
        (["--from", "pytorch", "--to", "keras"], "Keras holds one layer; got 2 layers of 1 dir"),
        (["--from", "onnx", "--to", "keras"], "read as onnx: W: expected an array of this name"),
        (["--from", "jax_persistent", "--to", "keras"], "layers.0.forward.input_kernel: expected"),
        (
            ["--from", "pytorch", "--to", "keras", "--prefix", "a."],
            "names that begin with 'a.'; got",
        ),
        (
            ["--from", "cudnn", "--to", "keras"],
            "--input-size and --hidden-size are for --from cudnn",
        ),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    source = tmp_path / "source"
    safetensors.save(source, weights.to_pytorch([[lstm(1)], [lstm(2, H)]]))
    assert run(source, tmp_path / "other", *options) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none", tmp_path / "x", "--from", "onnx", "--to", "keras") == 1
    assert "No such file" in capsys.readouterr().err
