# SPDX-License-Identifier: Apache-2.0
"""Recurrent PPO: the tasks' rules, the policy's memory, and a whole run that goes on bitwise."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from examples.common import speed
from examples.common.checkpoints import open_checkpoints, restore
from examples.common.metrics import read_metrics
from examples.common.speed import Speed
from examples.policy import pole
from examples.policy.__main__ import main
from examples.policy.environments import step_or_reset
from examples.policy.network import SCANS, ActorCritic
from examples.policy.pole import Pole, PoleState
from examples.policy.ppo import advantages
from examples.policy.recall import Recall
from examples.policy.rollout import Transition
from examples.policy.run import COLUMNS, Policies, fresh_policies
from examples.policy.settings import PRESETS, Settings

UPDATES = PRESETS["quick"].updates


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    """optax counts on mixing dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# The tasks


def test_recall_rewards_the_cue_after_the_delay():
    task = Recall(actions=3, delay=2)
    step = jax.jit(lambda *given: step_or_reset(task, *given))
    draw = np.random.default_rng(1)
    state = task.reset(jax.random.key(0))
    rewards = []
    for time in range(12 * task.limit):
        seen = np.asarray(task.observe(state))
        now = time % task.limit
        if now == 0:
            cue = int(seen[:3].argmax())
        assert seen.shape == (task.features,)
        assert seen[3:].tolist() == [now == 0, now == 3]  # the cue, the question
        assert seen[:3].sum() == (now < 3)
        action = cue if time < 3 * task.limit else int(draw.integers(3))
        state, reward, done = step(state, jnp.asarray(action), jax.random.key(time))
        assert float(reward) == (now == 3 and action == cue)
        assert bool(done) == (now == 3)
        rewards.append(float(reward))
    assert sum(rewards[: 3 * task.limit]) == 3
    assert 0 < sum(rewards[3 * task.limit :]) < 9


def _pushed(state: np.ndarray, force: float) -> np.ndarray:
    """A step of Euler's method; the accelerations solve both equations of motion at once.

    (M + m) x" + m l cos(a) a" = F + m l sin(a) a'^2
    m l cos(a) x" + 4/3 m l^2 a" = m g l sin(a)
    """
    _, speed, angle, turning = state
    ml = pole.POLE * pole.HALF_LENGTH
    masses = [
        [pole.CART + pole.POLE, ml * math.cos(angle)],
        [ml * math.cos(angle), 4 / 3 * ml * pole.HALF_LENGTH],
    ]
    forces = [
        force + ml * math.sin(angle) * turning**2,
        ml * pole.GRAVITY * math.sin(angle),
    ]
    acceleration, angular = np.linalg.solve(masses, forces)
    return state + 0.02 * np.array([speed, acceleration, turning, angular])


def test_the_pole_obeys_its_equations_of_motion():
    task = Pole(limit=50)
    step = jax.jit(task.step)
    draw = np.random.default_rng(2)
    for _ in range(5):
        before = draw.uniform(-1, 1, 4) * [2.3, 2.0, 0.2, 2.0]
        for action, force in ((0, -10.0), (1, 10.0)):
            state = PoleState(*map(jnp.float32, before), jnp.int32(3))
            after, _, _ = step(state, jnp.asarray(action), jax.random.key(0))
            np.testing.assert_allclose(after[:4], _pushed(before, force), rtol=1e-5, atol=1e-6)
            assert int(after.time) == 4


@pytest.mark.parametrize(
    ("motion", "time", "ended", "reward"),
    [
        ((0.0, 0.0, 0.0, 0.0), 7, False, 1 / 50),
        ((0.0, 0.0, 0.0, 0.0), 49, True, 1 / 50),
        ((2.39, 1.0, 0.0, 0.0), 7, True, 0),
        ((-2.39, -1.0, 0.0, 0.0), 7, True, 0),
        ((0.0, 0.0, 0.2, 1.0), 7, True, 0),
        ((0.0, 0.0, -0.2, -1.0), 7, True, 0),
    ],
)
def test_when_the_pole_s_episode_ends(motion, time, ended, reward):
    task = Pole(limit=50)
    state = PoleState(*map(jnp.float32, motion), jnp.int32(time))
    step = jax.jit(step_or_reset, static_argnums=0)
    after, got, done = step(task, state, jnp.asarray(1), jax.random.key(3))
    assert (bool(done), float(got)) == (ended, pytest.approx(reward))
    assert int(after.time) == (0 if ended else time + 1)
    if ended:
        assert max(abs(float(value)) for value in after[:4]) <= 0.05


def test_the_pole_s_velocities_are_hidden():
    task = Pole(limit=50)
    still, moving = (
        task.observe(PoleState(*map(jnp.float32, (1.2, v, -0.1, w)), jnp.int32(time)))
        for v, w, time in ((0, 0, 0), (1, -2, 9))
    )
    np.testing.assert_array_equal(still, moving)
    np.testing.assert_allclose(still, [0.5, -0.1 / math.radians(12)], rtol=1e-6)


# The policy and its advantages


def test_advantages_are_sums_of_discounted_errors():
    draw = np.random.default_rng(4)
    reward, value = draw.normal(size=(2, 7, 3)).astype(np.float32)
    done = draw.random((7, 3)) < 0.3
    last = draw.normal(size=3).astype(np.float32)
    unused = jnp.zeros(())
    played = Transition(unused, unused, unused, unused, *map(jnp.asarray, (value, reward, done)))
    found = jax.jit(advantages, static_argnums=(2, 3))(played, last, 0.9, 0.7)
    expected = np.zeros((7, 3))
    for row in range(3):
        for start in range(7):
            for step in range(start, 7):
                later = last[row] if step == 6 else value[step + 1, row]
                error = reward[step, row] - value[step, row]
                error += 0 if done[step, row] else 0.9 * later
                expected[start, row] += (0.9 * 0.7) ** (step - start) * error
                if done[step, row]:
                    break
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_policy_s_memory_ends_with_an_episode():
    """One sequence is its steps one by one; what comes before a reset changes nothing after it."""
    model = ActorCritic(actions=3, hidden=6, scan="persistent")
    draw = np.random.default_rng(5)
    seen = jnp.asarray(draw.normal(size=(5, 2, 4)), jnp.float32)
    resets = jnp.zeros((5, 2), bool).at[3, 1].set(True)
    carry = jnp.asarray(draw.normal(size=(2, 6)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), carry, seen, resets)
    apply = jax.jit(model.apply)
    after, logits, values = apply(params, carry, seen, resets)
    assert (logits.shape, values.shape) == ((5, 2, 3), (5, 2))
    state = carry
    for time in range(5):
        now = slice(time, time + 1)
        state, logit, value = apply(params, state, seen[now], resets[now])
        np.testing.assert_allclose(logit[0], logits[time], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[0], values[time], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state, after, rtol=1e-5, atol=1e-6)
    _, other, _ = apply(params, carry + 1, seen.at[0].add(1.0), resets)
    np.testing.assert_array_equal(other[3:, 1], logits[3:, 1])
    assert (np.asarray(other[3:, 0]) != np.asarray(logits[3:, 0])).any()


def test_the_scans_give_the_same():
    assert set(SCANS) == {"persistent", "flax"}
    draw = np.random.default_rng(6)
    seen = jnp.asarray(draw.normal(size=(5, 3, 4)), jnp.float32)
    resets = jnp.asarray(draw.random((5, 3)) < 0.3)
    found = []
    for scan in ("persistent", "flax"):
        model = ActorCritic(actions=2, hidden=6, scan=scan)
        params = jax.jit(model.init)(jax.random.key(0), model.start(3), seen, resets)

        def total(params, model=model):
            _, logits, values = model.apply(params, model.start(3), seen, resets)
            return (logits**2).sum() + (values**2).sum()

        found.append((params, *jax.jit(jax.value_and_grad(total))(params)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *found)


# A whole run


def _main(output, *more: str) -> int:
    return main(["--output", str(output), "--preset", "quick", *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("policy") / "run"
    assert _main(output) == 0
    return output


def test_memory_is_what_recall_needs(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["returns"]["memory"] > 0.9
    chance = 1 / PRESETS["quick"].symbols
    assert summary["returns"]["memoryless"] == pytest.approx(chance, abs=0.1)


def test_everything_is_reported(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["settings"]["hidden"] == PRESETS["quick"].hidden
    assert min(summary["steps_per_second"].values()) > 0
    assert summary["speedup_over_scan"] > 0
    rows = read_metrics(trained / "metrics.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == list(range(1, UPDATES + 1))
    assert float(rows[-1]["return"]) > float(rows[-1]["memoryless_return"]) + 0.2
    image = matplotlib.image.imread(trained / "returns.png")
    assert min(image.shape[:2]) > 200
    assert image[..., :3].std() > 0.02


def _final(output) -> tuple[Policies, int]:
    settings = Settings.load(output / "settings.json")
    with open_checkpoints(output) as checkpoints:
        return restore(checkpoints, jax.eval_shape(lambda: fresh_policies(settings)))


def test_resume_goes_on_bitwise(trained, tmp_path, monkeypatch):
    """A run that lost its last checkpoint and part of its metrics computes them again."""
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    shutil.rmtree(cut / "checkpoints" / str(UPDATES))
    metrics = (cut / "metrics.csv").read_text().splitlines(keepends=True)
    (cut / "metrics.csv").write_text("".join(metrics[: UPDATES - 3]))
    monkeypatch.setattr(speed, "compare", lambda *_: Speed("some steps", 1.0, 2.0))
    assert _main(cut, "--resume") == 0
    rows, expected = (
        [[row[column] for column in COLUMNS[:-1]] for row in read_metrics(output / "metrics.csv")]
        for output in (cut, trained)
    )
    assert rows == expected
    (policies, step), (expected_policies, expected_step) = _final(cut), _final(trained)
    assert step == expected_step == UPDATES
    jax.tree.map(np.testing.assert_array_equal, policies, expected_policies)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "chess"], "task: expected recall or pole, got chess"),
        (["--scan", "haiku"], "scan: expected persistent or flax, got haiku"),
        (["--symbols", "1"], "symbols: expected at least 2, got 1"),
        (["--discount", "1.0"], "discount: expected less than 1, got 1.0"),
        (["--environments", "10"], "expected a multiple of the 4 minibatches, got 10"),
        (["--resume"], "no run to go on from"),
    ],
)
def test_flags_that_can_not_be(tmp_path, capsys, flags, message):
    assert _main(tmp_path / "new", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_earlier_run_is_not_lost(trained, capsys):
    assert _main(trained) == 1
    assert "holds an earlier run: go on with --resume" in capsys.readouterr().err


def test_presets_are_valid_settings():
    assert {name: preset.task for name, preset in PRESETS.items()} == {
        "recall": "recall",
        "pole": "pole",
        "quick": "recall",
    }
