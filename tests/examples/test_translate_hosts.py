# SPDX-License-Identifier: Apache-2.0
"""The translator on several hosts, which are processes: one curve, whoever computes it."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_pairs
from devices import collectives, kernel_results, mesh_of
from jax.sharding import NamedSharding, PartitionSpec
from processes import ENDED, started

from examples.common import hosts
from examples.common.metrics import read_metrics
from examples.translate.batches import Example, collate
from examples.translate.model import ModelConfig
from examples.translate.settings import Settings
from examples.translate.step import initial_state, make_train_step

STEPS, SAVED, DEATH = 24, 8, 19
SIZES = "--hidden 16 --layers 1 --embedding 12 --batch 12 --vocabulary 330 --max-length 8"
OPTIONS = f"--steps {STEPS} --evaluate-every {SAVED} --learning-rate 0.03 --warmup 10 {SIZES}"
LONG = 240  # seconds, for a busy machine
BOUND = 60  # seconds after a death in which every host has ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    toy_pairs.write(folder / "pairs.tsv")
    return folder


def _program(folder: Path, output: Path, *options: str) -> list[str]:
    places = {"--data": folder / "pairs.tsv", "--cache": folder / "cache", "--output": output}
    flags = [str(part) for place in places.items() for part in place]
    return [str(Path(__file__).with_name("translate_host.py")), *flags, *options]


def _train(folder: Path, output: Path, count: int, *options: str, devices: int = 1) -> list[str]:
    """What the hosts of a run that comes to its end print."""
    with started(_program(folder, output, *options), folder, count, devices=devices) as running:
        codes = [host.end(LONG) for host in running]
        assert codes == [0] * count, "\n".join(host.printed() for host in running)
        return [host.printed() for host in running]


@pytest.fixture(scope="module")
def alone(folder):
    """The run of one process."""
    (printed,) = _train(folder, folder / "alone", 1, *OPTIONS.split())
    return folder / "alone", printed


@pytest.fixture(scope="module")
def killed(folder, alone):
    """Three hosts, of which one is killed: the run, exit codes, seconds, what they print."""
    output = folder / "killed"
    program = _program(folder, output, *OPTIONS.split())
    with started(program, folder, 3, dies=(2, DEATH)) as running:
        codes = {2: running[2].end(LONG)}
        began = time.monotonic()
        codes |= {n: running[n].end(LONG) for n in (0, 1)}
        return output, codes, time.monotonic() - began, [host.printed() for host in running]


def _curve(output: Path) -> np.ndarray:
    """[steps, 3]: step, loss, and validation loss where there is one."""
    rows = read_metrics(output / "metrics.csv")
    columns = ("step", "loss", "valid_loss")
    return np.array([[float(row[column] or "nan") for column in columns] for row in rows])


def _norm(printed: str) -> float:
    return float(re.search(r"^norm (.*)$", printed, re.MULTILINE)[1])


def _same(run: Path, expected: Path, steps: int) -> None:
    np.testing.assert_allclose(_curve(run), _curve(expected)[:steps], rtol=1e-4)


def test_the_curve_tells_runs_apart(alone):
    steps, loss, valid = _curve(alone[0]).T
    np.testing.assert_array_equal(steps, np.arange(1, STEPS + 1))
    assert loss[0] - loss[-1] > 1
    assert np.abs(np.diff(loss)).min() > 1e-4 * loss.max()
    assert list(np.flatnonzero(~np.isnan(valid)) + 1) == [8, 16, 24]


def test_three_hosts_have_the_curve_of_one(killed, alone):
    _same(killed[0], alone[0], DEATH)


def test_a_host_that_dies_ends_the_others(killed):
    _, codes, seconds, printed = killed
    assert codes.pop(2) == -signal.SIGKILL
    assert 0 not in codes.values()
    assert seconds < BOUND
    for host, text in enumerate(printed):
        assert f"Host {host} of 3 has ended early" in text
        assert ENDED in text
        assert "start any number of hosts with --resume" in text


@pytest.mark.parametrize(("count", "devices"), [(1, 1), (2, 2)])
def test_any_number_of_hosts_goes_on(folder, killed, alone, count, devices):
    """From the last checkpoint, after which the steps are computed anew; the first host speaks."""
    output = folder / f"resumed-{count}"
    shutil.copytree(killed[0], output)
    printed = _train(folder, output, count, "--resume", devices=devices)
    for text in (f"{DEATH - DEATH % SAVED}/{STEPS}", "training", "subwords", "norm"):
        assert [text in each for each in printed] == [True] + [False] * (count - 1)
    _same(output, alone[0], STEPS)
    np.testing.assert_allclose(_norm(printed[0]), _norm(alone[1]), rtol=1e-4)


def _shapes(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def test_a_training_step_gathers_nothing():
    mesh = mesh_of(data=8)
    config = ModelConfig(19, 23, hidden=6, layers=1, embedding=5)
    settings = Settings()
    batch = collate([Example([4, 5, 6], [7]), Example([8], [9, 10, 11])], 16, 5)
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules count on it
        state = jax.eval_shape(lambda: initial_state(config, settings))
        step = jax.jit(make_train_step(config, settings))
        state = _shapes(state, hosts.everywhere(mesh))
        split = _shapes(batch, NamedSharding(mesh, PartitionSpec("data")))
        compiled = step.lower(state, split, 3).compile()
    assert set(collectives(compiled)) == {"all-reduce"}
    # The encoder, both directions in one call, and the decoder; both passes, on 2 of the 16 rows.
    assert len(kernel_results(compiled)) == 4
    assert kernel_results(compiled)[0] == "f32[1,2,5,2,3]"
