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


def lstm(
    seed: int = 0, inputs: int = I, dtype: Any = np.float32, gates: int = 4
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {"input_kernel": (inputs, gates * H), "recurrent_kernel": (H, gates * H)}
    found = {name: draw.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    # Eighths, which Haiku's forget gate, of a bias that is 1 less, has exactly.
    return found | {"bias": (draw.integers(-9, 9, gates * H) / 8).astype(dtype)}


def gru(seed: int = 0) -> dict[str, np.ndarray]:
    """One that resets after the product, and so has two biases."""
    bias = np.random.default_rng(seed).normal(size=3 * H).astype(np.float32)
    return lstm(seed, gates=3) | {"recurrent_bias": bias}


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


@pytest.mark.parametrize("gates", [4, 3, 1])
def test_haiku_s_names_and_bits(tmp_path: Path, gates: int) -> None:
    """A core's parameters, named as Haiku has them, after a file of another layout."""
    source, other, back = (tmp_path / name for name in ("source", "other", "back"))
    tree = weights.to_haiku(lstm(gates=gates), "net/core")
    named = {f"{module}/{name}": a for module, arrays in tree.items() for name, a in arrays.items()}
    safetensors.save(source, named)
    prefix = "net/core/"
    expected = {name.removeprefix(prefix): array for name, array in named.items()}
    for layout in ("keras", "jax_persistent", "onnx"):
        assert run(source, other, "--from", "haiku", "--to", layout, "--prefix", prefix) == 0
        if (layout, gates) == ("onnx", 3):
            continue  # has two biases, of which Haiku's GRU has one
        assert run(other, back, "--from", layout, "--to", "haiku") == 0
        assert_same(safetensors.load(back), expected)


def test_equinox_s_names_and_bits(tmp_path: Path) -> None:
    source, other, back = (tmp_path / name for name in ("source", "other", "back"))
    arrays = {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias": (3 * H,), "bias_n": (H,)}
    draw = np.random.default_rng(0)
    cell = {name: draw.normal(size=shape) for name, shape in arrays.items()}
    safetensors.save(source, {f"cell.{name}": array for name, array in cell.items()})
    assert run(source, other, "--from", "equinox", "--to", "pytorch", "--prefix", "cell.") == 0
    found = weights.from_pytorch(safetensors.load(other))[0][0]
    assert_array_equal(found["recurrent_bias"][2 * H :], cell["bias_n"])
    assert run(other, back, "--from", "pytorch", "--to", "equinox") == 0
    assert_same(safetensors.load(back), cell)


def _flat(tree: Any) -> list[tuple[str, np.ndarray]]:
    return [(f"{module}/{name}", a) for module, named in tree.items() for name, a in named.items()]


def _keras(weights_: dict[str, np.ndarray]) -> list[np.ndarray]:
    return weights.to_keras([weights_], reset_after=False)


def test_a_gru_that_resets_elsewhere_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same arrays would be another function."""
    source, other = tmp_path / "source", tmp_path / "other"
    before = lstm(gates=3)
    for given, tensors in (
        ("haiku", {n.removeprefix("c/"): a for n, a in _flat(weights.to_haiku(before, "c"))}),
        ("keras", dict(zip(("kernel", "recurrent_kernel", "bias"), _keras(before), strict=True))),
    ):
        safetensors.save(source, tensors)
        assert run(source, other, "--from", given, "--to", "pytorch") == 1
        assert "this GRU resets its state before the product" in capsys.readouterr().err
        assert not other.exists()
    safetensors.save(source, weights.to_pytorch([[gru()]]))
    assert run(source, other, "--from", "pytorch", "--to", "haiku") == 1
    assert "recurrent_bias: expected none, as a Haiku core has" in capsys.readouterr().err
    unbiased = {name: array for name, array in gru().items() if "bias" not in name}
    safetensors.save(source, weights.to_pytorch([[unbiased]]))
    assert run(source, other, "--from", "pytorch", "--to", "haiku") == 1
    assert "this GRU resets its state after the product" in capsys.readouterr().err


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
