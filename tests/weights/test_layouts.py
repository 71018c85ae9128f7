# SPDX-License-Identifier: Apache-2.0
"""Each layout: the same function before and after, and the same bits there and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen, nnx
from jax.experimental import rnn as cudnn
from numpy.testing import assert_allclose, assert_array_equal

from jax_persistent import weights
from jax_persistent.cells import ProjectedLSTM
from tests.ops import oracle
from tests.weights import forward

T, B, I, H, P = 5, 3, 4, 6, 2  # noqa: E741
GATES = {"lstm": 4, "gru": 3, "elman": 1}
every_cell = pytest.mark.parametrize("kind", GATES)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


X = drawn(0, T, B, I)


def made(
    kind: str, features: int = I, seed: int = 1, back: int = H, **more: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Weights of one direction of one layer; `more` are shapes of optional ones."""
    columns = GATES[kind] * H
    shapes = {
        "input_kernel": (features, columns),
        "recurrent_kernel": (back, columns),
        "bias": (columns,),
        **({"recurrent_bias": (columns,)} if kind == "gru" else {}),
        **more,
    }
    return {n: drawn(seed + at, *shape) for at, (n, shape) in enumerate(shapes.items())}


def run(kind: str, w: Any, x: np.ndarray = X, reverse: bool = False) -> np.ndarray:
    """Outputs [T, B, H] of the functions on float64, by the oracle of their tests."""
    cell = {"elman": "elman-tanh"}.get(kind, kind)
    given = {"x": x.swapaxes(0, 1), **w}
    return oracle.run(cell, given, None, reverse)["outputs"].swapaxes(0, 1)


def stacked(kind: str, layers: Any) -> np.ndarray:
    x = X
    for layer in layers:
        x = np.concatenate([run(kind, w, x, way == 1) for way, w in enumerate(layer)], -1)
    return x


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert_array_equal(found[name], array, err_msg=name)


def assert_same_layers(found: Any, expected: Any) -> None:
    assert [len(layer) for layer in found] == [len(layer) for layer in expected]
    for layer, of in zip(found, expected, strict=True):
        for one, other in zip(layer, of, strict=True):
            assert_same(one, other)


def of_layers(kind: str, layers: int, ways: int) -> list[list[dict[str, np.ndarray]]]:
    sizes = [I, *[ways * H] * (layers - 1)]
    return [
        [made(kind, features, 10 * n + 5 * way) for way in range(ways)]
        for n, features in enumerate(sizes)
    ]


@every_cell
@pytest.mark.parametrize(("layers", "ways"), [(1, 1), (2, 2)])
def test_pytorch(kind: str, layers: int, ways: int) -> None:
    given = of_layers(kind, layers, ways)
    state = weights.to_pytorch(given, prefix="encoder.")
    bare = {name.removeprefix("encoder."): array for name, array in state.items()}
    found = forward.pytorch(kind, bare, X, layers, ways)
    assert_allclose(found, stacked(kind, given), rtol=1e-12)
    assert_same_layers(weights.from_pytorch(state, "encoder."), given)


def test_pytorch_has_two_biases() -> None:
    state = weights.to_pytorch([[made("lstm")]]) | {"bias_hh_l0": drawn(9, 4 * H)}
    ((one,),) = weights.from_pytorch(state)
    assert_allclose(run("lstm", one), forward.pytorch("lstm", state, X, 1, 1), rtol=1e-12)


def test_pytorch_without_a_bias() -> None:
    given = {name: a for name, a in made("gru").items() if "bias" not in name}
    state = weights.to_pytorch([[given]])
    assert list(state) == ["weight_ih_l0", "weight_hh_l0"]
    assert_same_layers(weights.from_pytorch(state), [[given]])


def test_pytorch_with_a_projection() -> None:
    """The arrays of the library's cell, which they are exactly: `proj_size` is the P of LSTMP."""
    given = made("lstm", back=P, projection_kernel=(H, P))
    state = weights.to_pytorch([[given]])
    assert state["weight_hr_l0"].shape == (P, H)
    expected = forward.pytorch("lstm", state, X, 1, 1)
    cell = ProjectedLSTM(projection=P)
    of = {name: a.astype(np.float32) for name, a in given.items()}
    assert {n: shape for n, (shape, _) in cell.parameters(I, H).items()} == {
        name: a.shape for name, a in of.items()
    }
    carry, found = cell.start(H, B, np.float32), []
    for x in X.astype(np.float32):
        carry, y = cell(of, carry, x)
        found.append(y)
    assert_allclose(np.stack(found), expected, rtol=1e-4, atol=1e-5)
    assert_same_layers(weights.from_pytorch(state), [[given]])


def assert_close(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_allclose(found[name], array, atol=1e-12, err_msg=name)


def in_jax(read: Any, arrays: Any, traced: bool) -> Any:
    """What a layout's reader makes of the arrays, as numpy's or as tracers."""
    if not traced:
        return read(arrays)
    with jax.enable_x64(True):
        return jax.jit(read)(arrays)


def relu(w: Any) -> np.ndarray:
    """What `elman(activation="relu")` gives."""

    def step(x: Any, h: Any) -> Any:
        h = np.maximum(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], 0)
        return h, h

    return forward.loop(X, step, [np.zeros((B, H))])


def summed(w: Any) -> np.ndarray:
    """A GRU's biases of r and z, which only act as their sum, and both of n."""
    b, c = w["bias"], w["recurrent_bias"]
    return np.concatenate([b[: 2 * H] + c[: 2 * H], b[2 * H :], c[2 * H :]])


@every_cell
def test_keras(kind: str) -> None:
    given = made(kind)
    arrays = weights.to_keras([given])
    assert_allclose(forward.keras(kind, arrays, X), run(kind, given), rtol=1e-12)
    assert_same(weights.from_keras(arrays)[0], given)
    both = [given, made(kind, seed=7)]
    assert len(weights.to_keras(both)) == 6
    assert_same_layers([weights.from_keras(weights.to_keras(both))], [both])


def before(w: Any) -> np.ndarray:
    """What `gru(reset_after=False)` gives, by the documented equations."""
    W, R, b = w["input_kernel"], w["recurrent_kernel"], w["bias"] + w.get("recurrent_bias", 0)
    (W_r, W_z, W_n), (R_r, R_z, R_n), (b_r, b_z, b_n) = (np.split(a, 3, -1) for a in (W, R, b))

    def step(x: Any, h: Any) -> Any:
        r, z = (
            forward.sigmoid(x @ W_r + h @ R_r + b_r),
            forward.sigmoid(x @ W_z + h @ R_z + b_z),
        )
        h = (1 - z) * np.tanh(x @ W_n + (r * h) @ R_n + b_n) + z * h
        return h, h

    return forward.loop(X, step, [np.zeros((B, H))])


def test_a_reset_before_the_product() -> None:
    given = made("gru")
    found = forward.onnx("gru", weights.to_onnx([given]), X, linear_before_reset=0)
    assert_allclose(found, before(given), rtol=1e-12)
    del given["recurrent_bias"]
    arrays = weights.to_keras([given], reset_after=False)
    assert arrays[2].shape == (3 * H,)
    assert_allclose(forward.keras("gru", arrays, X, reset_after=False), before(given), rtol=1e-12)
    assert_same(weights.from_keras(arrays)[0], given)


def without(given: Any, *names: str) -> dict[str, np.ndarray]:
    return {name: a for name, a in given.items() if name not in names}


@every_cell
@pytest.mark.parametrize("traced", [False, True])
def test_haiku(kind: str, traced: bool) -> None:
    """Among the parameters of others, one of which is named as a part of the core."""
    given = without(made(kind), "recurrent_bias")
    params = weights.to_haiku(given, "net/~/core")
    expected = {"gru": before, "elman": relu}.get(kind, lambda w: run(kind, w))(given)
    assert_allclose(forward.haiku(kind, params, "net/~/core", X), expected, rtol=1e-12)
    others = {"linear": {"w": X, "b": X}, "net/~/core_1": {"w_i": X}}
    found = in_jax(lambda p: weights.from_haiku(others | p, "net/~/core"), params, traced)
    assert_close(found, given)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("traced", [False, True])
def test_equinox(kind: str, traced: bool) -> None:
    given = made(kind)
    arrays = weights.to_equinox(given)
    assert_allclose(forward.equinox(kind, arrays, X), run(kind, given), rtol=1e-12)
    found = in_jax(lambda a: weights.from_equinox(SimpleNamespace(**a)), arrays, traced)
    if kind == "gru":  # r and z have one bias
        given, found = ({**w, "bias": summed(w), "recurrent_bias": 0 * X} for w in (given, found))
    assert_close(found, given)
    assert "bias" not in weights.from_equinox(SimpleNamespace(**arrays | {"bias": None}))


@every_cell
def test_keras_arrays_may_be_traced(kind: str) -> None:
    given = made(kind)
    found = in_jax(lambda a: weights.from_keras(a)[0], weights.to_keras([given]), True)
    assert_close(found, given)


@every_cell
def test_onnx(kind: str) -> None:
    given = [made(kind), made(kind, seed=7)]
    node = weights.to_onnx(given)
    assert list(node) == ["W", "R", "B"]
    for way in range(2):
        expected = run(kind, given[way], reverse=way == 1)
        assert_allclose(forward.onnx(kind, node, X, way), expected, rtol=1e-12)
    assert_same_layers([weights.from_onnx(**node)], [given])
    bare = [{name: a for name, a in w.items() if "bias" not in name} for w in given]
    assert_same_layers([weights.from_onnx(**weights.to_onnx(bare))], [bare])


def test_onnx_with_peepholes() -> None:
    given = made("lstm", peephole=(3 * H,))
    node = weights.to_onnx([given])
    W, R, b, p = (given[n] for n in ("input_kernel", "recurrent_kernel", "bias", "peephole"))

    def step(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(x @ W + h @ R + b, 4, -1)
        i, f = forward.sigmoid(i + p[:H] * c), forward.sigmoid(f + p[H : 2 * H] * c)
        c = f * c + i * np.tanh(g)
        h = forward.sigmoid(o + p[2 * H :] * c) * np.tanh(c)
        return h, h, c

    expected = forward.loop(X, step, [np.zeros((B, H))] * 2)
    assert_allclose(forward.onnx("lstm", node, X), expected, rtol=1e-12)
    assert_same(weights.from_onnx(**node)[0], given)


@pytest.mark.parametrize(("layers", "ways"), [(1, 1), (2, 2)])
def test_cudnn(layers: int, ways: int) -> None:
    """Against jax's own reference of what cuDNN computes, and its own count and parts."""
    given = of_layers("lstm", layers, ways)
    flat = weights.to_cudnn(given)
    sizes = {
        "input_size": I,
        "hidden_size": H,
        "num_layers": layers,
        "bidirectional": ways == 2,
    }
    assert flat.shape == (cudnn.get_num_params_in_lstm(**sizes),)
    parts = cudnn.unpack_lstm_weights(flat, **sizes)
    state = {
        f"{kind}_l{n // ways}{'_reverse' if n % ways else ''}": array
        for kind, arrays in zip(
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parts, strict=True
        )
        for n, array in arrays.items()
    }
    assert_allclose(forward.pytorch("lstm", state, X, layers, ways), stacked("lstm", given))
    assert_same_layers(weights.from_cudnn(flat, **sizes), given)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_haste(kind: str) -> None:
    given = made(kind)
    tensors = weights.to_haste(given)
    assert_allclose(forward.haste(kind, tensors, X), run(kind, given), rtol=1e-12)
    assert_same(weights.from_haste(tensors), given)


@every_cell
@pytest.mark.parametrize("heads", [1, 3])
def test_flashrnn(kind: str, heads: int) -> None:
    units, bias = H // heads, 4 if kind == "gru" else GATES[kind]
    given = {
        "W": drawn(1, I, GATES[kind] * H),
        "R": drawn(2, GATES[kind], heads, units, units),
        "b": drawn(3, bias, heads, units),
    }
    found = weights.from_flashrnn(**given)
    assert_allclose(run(kind, found), forward.flashrnn(kind, given, X), rtol=1e-12)
    assert_same(weights.to_flashrnn(found, heads), given)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """flax's cells on arrays of float64, though their own dtype is float32."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def looped(call: Any, kind: str) -> np.ndarray:
    """Outputs of call(carry, x) -> (carry, y) of a flax cell, from zeros."""
    carry, outputs = (np.zeros((B, H)),) * 2 if kind == "lstm" else np.zeros((B, H)), []
    for x in X:
        carry, y = call(carry, x)
        outputs.append(np.asarray(y))
    return np.stack(outputs)


def filled(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: drawn(leaf.size, *leaf.shape), tree)


LINEN = {"lstm": linen.OptimizedLSTMCell(H), "gru": linen.GRUCell(H), "elman": linen.SimpleCell(H)}


@every_cell
def test_linen(kind: str) -> None:
    cell, key = LINEN[kind], jax.random.key(0)
    with in_float64():
        carry = cell.initialize_carry(key, (B, I))
        params = filled(jax.eval_shape(cell.init, key, carry, X[0])["params"])
        expected = looped(lambda carry, x: cell.apply({"params": params}, carry, x), kind)
    found = weights.from_linen(params)
    assert_allclose(run(kind, found), expected, rtol=1e-10)
    back = weights.to_linen(found)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(assert_array_equal, back, params)


NNX = {
    "lstm": nnx.OptimizedLSTMCell,
    "lstm-of-gates": nnx.LSTMCell,
    "gru": nnx.GRUCell,
    "elman": nnx.SimpleCell,
}


@pytest.mark.parametrize("name", NNX)
def test_nnx(name: str) -> None:
    kind = name.split("-")[0]
    graph, state, rest = nnx.split(NNX[name](I, H, rngs=nnx.Rngs(0)), nnx.Param, ...)
    with in_float64():
        state = filled(state)
        expected = looped(nnx.merge(graph, state, rest), kind)
    params = nnx.to_pure_dict(state)
    found = weights.from_nnx(params)
    assert_allclose(run(kind, found), expected, atol=1e-6)  # SimpleCell computes in float32
    back = weights.to_nnx(found)
    if name == kind:
        assert jax.tree.structure(back) == jax.tree.structure(params)
        jax.tree.map(assert_array_equal, back, params)
    else:
        assert_same(weights.from_nnx(back), found)
